"""Ways of seeing the time of an event: calendar, gaps, learned periods, recent activity, personal rhythm."""

from stjax.nn.time.activity import DecayedCounts, WindowCounts
from stjax.nn.time.calendar import TimeEmbed
from stjax.nn.time.gap import GapEmbed
from stjax.nn.time.rhythm import RhythmEmbed
from stjax.nn.time.time2vec import Time2Vec

__all__ = ["DecayedCounts", "GapEmbed", "RhythmEmbed", "Time2Vec", "TimeEmbed", "WindowCounts"]
