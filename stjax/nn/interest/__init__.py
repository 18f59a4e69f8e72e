"""Models of a user's changing interest. Each has a parallel form and a step form with the same result."""

from stjax.nn.interest.attention import SelfAttention
from stjax.nn.interest.gru import GRU

__all__ = ["GRU", "SelfAttention"]
