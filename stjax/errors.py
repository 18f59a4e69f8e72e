"""Failures that a user can mend: the commands print them as one message and exit with 2."""

from __future__ import annotations


class UserError(ValueError):
    """What was asked cannot be done; the message names the field or file and the remedy."""


class ConfigError(UserError):
    """A config file or a field of an experiment that is not usable."""


class CheckpointError(UserError):
    """A run folder or checkpoint that cannot be written, read or continued."""


class TrainingError(UserError):
    """Training cannot go on; the message names the step and what is safe."""
