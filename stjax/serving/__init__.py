"""Real time: states of users on the device, events in, recommendations out."""

from stjax.serving.engine import Engine, Observed
from stjax.serving.messages import Event, Item, Recommendation, Request
from stjax.serving.settings import Settings, Shapes
from stjax.serving.tuning import Tuned

__all__ = [
    "Engine",
    "Event",
    "Item",
    "Observed",
    "Recommendation",
    "Request",
    "Settings",
    "Shapes",
    "Tuned",
]
