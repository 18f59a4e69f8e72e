"""Hyperparameter search on validation: `python -m stjax.tune CONFIG` searches the `space` of a config.

Only the declarations are here: a config that has them needs nothing of what searches.
"""

from stjax.tune.space import Choice, Integers, Log, Space, Uniform

__all__ = ["Choice", "Integers", "Log", "Space", "Uniform"]
