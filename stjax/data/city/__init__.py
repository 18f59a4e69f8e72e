"""A synthetic city whose users' next venues have known probabilities."""

from stjax.data.city.parameters import City
from stjax.data.city.simulate import Logs, simulate
from stjax.data.city.world import World

__all__ = ["City", "Logs", "World", "simulate"]
