"""The tiny experiment with a space to search; a search takes seconds.

python -m stjax.tune tests/configs/searched.py
"""

import dataclasses

from stjax.training import Training
from stjax.tune import Choice, Log, Uniform
from tests.configs.tiny import Tanh
from tests.configs.tiny import experiment as tiny


class Wide(Tanh):
    """A class of the config's own."""

    width: int = 17


experiment = dataclasses.replace(tiny, name="searched", training=Training(epochs=2, checkpoint_every=5))
space = {
    "optimizer.learning_rate": Log(1e-3, 1e-1),
    "model.dropout": Uniform(0, 0.5),
    "model.layer": Choice(Tanh(), Tanh(7), Wide()),
}
