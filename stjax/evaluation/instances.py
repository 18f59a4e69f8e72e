"""Pointwise evaluation: each target beside a few items that were not chosen, as AUC and log loss.

The negatives are drawn once for all scorers: they depend on the data, the targets and a seed alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stjax.data.dataset import Dataset
from stjax.data.protocols import PARTS, ProtocolError
from stjax.evaluation.evaluate import fetched, no_nan
from stjax.evaluation.scored import Difference, Scored
from stjax.events import FIRST, Query
from stjax.metrics import auc, bootstrap_means, log_loss, mean_and_error

RESAMPLED = 200  # of the AUC: each sorts all scores anew


def negatives(dataset: Dataset, rows: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Items that a target's user did not choose in its context, for each target row: int32 (N, count).

    Train ids, drawn uniformly and with replacement from the items of the training part, but for those that
    the user has, anywhere in the log, in an event with the same values of all categorical event fields.
    Raises ProtocolError where a user has all items in one context.
    """
    store, items = dataset.store, dataset.schema.items
    fields = [f.name for f in store.schema.select("event", "categorical")]
    context = np.stack([np.asarray(store.columns[name]) for name in ("user", *fields)], axis=1)
    context = np.unique(context, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    all_items = dataset.items(slice(None))
    known = all_items >= FIRST
    chosen = np.unique(context[known] * items + all_items[known])
    full = np.flatnonzero(np.bincount(chosen // items) == items - FIRST)
    if np.isin(context[rows], full).any():
        raise ProtocolError("a user has chosen every item in one context: there is no negative to draw")
    random = np.random.default_rng(seed)
    drawn = random.integers(FIRST, items, (len(rows), count))
    while True:
        wrong = np.isin(context[rows][:, None] * items + drawn, chosen)
        if not wrong.any():
            return drawn.astype(np.int32)
        drawn[wrong] = random.integers(FIRST, items, int(wrong.sum()))


@dataclass(frozen=True)
class InstanceReport(Scored):
    """Scores of targets and of their negatives, with what the numbers mean.

    logit: float64 (N, 1 + K), of the target and of K negatives. probabilities: whether the scores are logits;
    if not, only their order counts, and there is no log loss. seed: of the negatives. The other
    fields are those of `Scored`.
    """

    logit: np.ndarray
    probabilities: bool = True
    filter_seen: bool = False
    seed: int = 0

    @property
    def title(self) -> str:
        """What was scored, in one line."""
        return (
            f"{self.protocol}, {self.part}: {len(self):,} targets of {self.users:,} users, each beside "
            f"{self.logit.shape[1] - 1} of {self.candidates:,} items that the user did not choose in the "
            "context"
        )

    def mean(self, name: str) -> float:
        """AUC or logloss over all instances."""
        return float(self.summary(errors=False)[name]["mean"] or 0.0)

    def summary(self, errors: bool = True) -> dict[str, dict[str, float | None]]:
        """{metric: {mean, standard_error}}: the error of AUC by bootstrap over users, that of the log loss
        clustered by user. errors: False leaves them None."""
        error = None
        if errors and self.users > 1:
            error = float(np.std(self._resampled, ddof=1))
        summary: dict[str, dict[str, float | None]] = {
            "AUC": {"mean": auc(*self._flat), "standard_error": error}
        }
        if self.probabilities:
            mean, error = mean_and_error(self._losses, self.user)
            summary["logloss"] = {"mean": mean, "standard_error": error if errors else None}
        return summary

    def as_dict(self) -> dict[str, Any]:
        """All but the single scores, as JSON holds it."""
        return self.about | {"negatives": self.logit.shape[1] - 1, "metrics": self.summary()}

    @property
    def _flat(self) -> tuple[np.ndarray, np.ndarray]:
        label = np.zeros(self.logit.shape)
        label[:, 0] = 1.0
        return self.logit.ravel(), label.ravel()

    @property
    def _losses(self) -> np.ndarray:
        """Mean log loss of each target's instances, (N,)."""
        return log_loss(*self._flat).reshape(self.logit.shape).mean(axis=1)

    @functools.cached_property
    def _resampled(self) -> np.ndarray:
        """AUC of resampled logs, (RESAMPLED,): users are drawn with replacement, each with all instances.

        Every report of the same targets draws the same users.
        """
        users, owner = np.unique(self.user, return_inverse=True)
        random, flat = np.random.default_rng(0), self._flat
        owner = np.repeat(owner, self.logit.shape[1])
        weights = (
            random.multinomial(len(users), np.full(len(users), 1 / len(users))) for _ in range(RESAMPLED)
        )
        return np.asarray([auc(*flat, weight[owner]) for weight in weights])


def paired_instances(a: InstanceReport, b: InstanceReport, name: str) -> Difference:
    """The difference a - b of AUC or logloss on the same instances, by bootstrap over users.

    Raises ValueError where the instances are not the same.
    """
    tasks = [(r.protocol, r.part, r.candidates, r.seed, r.logit.shape) for r in (a, b)]
    if tasks[0] != tasks[1] or not np.array_equal(a.row, b.row):
        raise ValueError(f"not the same instances: {a.label} on {a.title}; {b.label} on {b.title}")
    mean = a.mean(name) - b.mean(name)
    if a.users < 2:
        return Difference(name, mean)
    if name == "AUC":
        return Difference.of(name, mean, a._resampled - b._resampled)
    return Difference.of(name, mean, bootstrap_means(a._losses - b._losses, a.user))


def evaluate_instances(
    scorer: Any,
    dataset: Dataset,
    part: int,
    *,
    count: int,
    seed: int = 0,
    block: int = 256,
    length: int = 256,
    buckets: Sequence[int] | None = None,
    limit: int | None = None,
) -> InstanceReport:
    """Score the targets of a part and `count` negatives each, see `negatives`.

    scorer: as for `evaluate`. One with a method `rank(history, query, candidates) -> (B, 1 + K)` gives
    logits; of any other the scores of the whole catalogue are taken, of which only the order counts.
    Raises UserError where a score is NaN.
    """
    rows = dataset.targets(part)
    candidates = np.concatenate(
        [dataset.items(rows)[:, None], negatives(dataset, rows, count, seed)], axis=1
    ).astype(np.int32)
    name, rank = getattr(scorer, "name", type(scorer).__name__), getattr(scorer, "rank", None)
    found, scores = [], []
    for question in dataset.questions(part, length, block, limit, buckets):
        mine = candidates[np.searchsorted(rows, question.row)]
        query = Query.of(question.target, scorer.known)
        if rank is not None:
            score = fetched(rank(question.history, query, mine)).astype(np.float64)
        else:
            whole = fetched(scorer(question.history, query, question.row)).astype(np.float64)
            score = np.take_along_axis(whole, mine, axis=1)
        scores.append(score[question.real])
        found.append(question.row[question.real])
        no_nan(np.isnan(scores[-1]).any(axis=1), found[-1], name)
    row = np.concatenate(found)
    order = np.argsort(row)
    return InstanceReport(
        name=name,
        known=tuple(scorer.known),
        protocol=dataset.split.name,
        part=PARTS[part],
        candidates=dataset.schema.items - FIRST,
        logit=np.concatenate(scores)[order],
        row=row[order],
        user=dataset.store.user_of(row[order]),
        probabilities=rank is not None,
        seed=seed,
    )
