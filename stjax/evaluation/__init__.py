"""Full-ranking evaluation: ranks, errors over users, segments, paired differences, tables."""

from stjax.evaluation.evaluate import Scorer, evaluate
from stjax.evaluation.report import Difference, Report, paired
from stjax.evaluation.table import markdown, render

__all__ = ["Difference", "Report", "Scorer", "evaluate", "markdown", "paired", "render"]
