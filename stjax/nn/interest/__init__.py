"""Models of a user's changing interest. Each has a parallel form and a step form with the same result."""

from stjax.nn.interest.attention import SelfAttention
from stjax.nn.interest.bias import SpatioTemporalBias
from stjax.nn.interest.gru import GRU
from stjax.nn.interest.hstu import HSTU
from stjax.nn.interest.lstm import LSTM
from stjax.nn.interest.mean import Mean
from stjax.nn.interest.state_space import StateSpace

__all__ = ["GRU", "HSTU", "LSTM", "Mean", "SelfAttention", "SpatioTemporalBias", "StateSpace"]
