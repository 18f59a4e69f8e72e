"""Training: an Experiment, the command that runs it, and a run folder that survives being killed."""

from stjax.training.config import Command, load_config, load_module, parse
from stjax.training.experiment import Batching, Evaluation, Experiment, Optimizer, Sharding, Training
from stjax.training.run import run

__all__ = [
    "Batching",
    "Command",
    "Evaluation",
    "Experiment",
    "Optimizer",
    "Sharding",
    "Training",
    "load_config",
    "load_module",
    "parse",
    "run",
]
