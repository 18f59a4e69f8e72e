"""Full-ranking and pointwise evaluation: ranks, errors over users, segments, paired differences, tables."""

from stjax.evaluation.evaluate import Scorer, evaluate
from stjax.evaluation.instances import InstanceReport, evaluate_instances, negatives, paired_instances
from stjax.evaluation.report import Report, paired, paired_each
from stjax.evaluation.scored import Difference
from stjax.evaluation.table import markdown, render

__all__ = [
    "Difference",
    "InstanceReport",
    "Report",
    "Scorer",
    "evaluate",
    "evaluate_instances",
    "markdown",
    "negatives",
    "paired",
    "paired_each",
    "paired_instances",
    "render",
]
