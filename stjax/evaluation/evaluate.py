"""Rank the target of every question among the whole catalogue, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from stjax.data.dataset import Dataset
from stjax.data.protocols import PARTS
from stjax.errors import UserError
from stjax.evaluation.report import Report
from stjax.evaluation.segments import facts
from stjax.events import FIRST, Events, Query, Question
from stjax.metrics import target_rank

_rank_block = jax.jit(target_rank)


class Scorer(Protocol):
    """Whatever scores the catalogue: a trained model or a baseline.

    known: the query fields that it is given. Called with the history (B, L), the declared part of
    the target (B,) and the target's store rows (B,); returns floats (B, V), higher is better, one
    column per train item id. An optional `name` is used in messages and tables.
    """

    @property
    def known(self) -> tuple[str, ...]: ...

    def __call__(self, history: Events, query: Query, rows: np.ndarray) -> Any: ...


def evaluate(
    scorer: Scorer,
    dataset: Dataset,
    part: int,
    *,
    ks: Sequence[int] = (1, 5, 10, 20),
    filter_seen: bool = False,
    block: int = 256,
    length: int = 256,
    buckets: Sequence[int] | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Full ranking of the targets of a part, ties counted against the target.

    ks: cut-offs of HR and NDCG. filter_seen: take the items of the history, but for the target, out
    of the candidates. block: targets scored at once; only one (block, V) array of
    scores is alive per step. length, buckets, limit: as in `Dataset.questions`. progress: called
    with the targets done and their total after every block.
    Raises UserError where a candidate's score is NaN, ValueError where the scores are not (block,
    V).
    """
    name = getattr(scorer, "name", type(scorer).__name__)
    rows = dataset.targets(part)
    total = len(rows) if limit is None else min(limit, len(rows))
    width = _seen_width(dataset, rows) if filter_seen else 0
    ranks, described, done = [], [], 0
    waiting: tuple[Question, Any] | None = None

    def collect(question: Question, rank: Any) -> None:
        real = question.real
        ranks.append(fetched(rank)[real])
        no_nan(ranks[-1] == 0, question.row[real], name)
        if progress is not None:
            progress(done, total)

    for question in dataset.questions(part, length, block, limit, buckets):
        query = Query.of(question.target, scorer.known)
        scores = scorer(question.history, query, question.row)
        expected = (len(question.row), dataset.schema.items)
        if np.shape(scores) != expected:
            raise ValueError(f"{name} gave scores of shape {np.shape(scores)} instead of {expected}")
        offsets, seen = dataset.seen(question.row)
        padded = seen_lists(offsets, seen, dataset.schema.items, width) if filter_seen else None
        rank = _rank_block(scores, question.target.item, padded)
        if waiting is not None:  # one block behind: the device ranks while the host prepares the next
            collect(*waiting)
        waiting = question, rank
        described.append(facts(question, offsets, seen))
        done += int(question.real.sum())
    if waiting is not None:
        collect(*waiting)

    columns = {key: np.concatenate([d[key] for d in described]) for key in described[0]}
    row, rank = columns.pop("row"), np.concatenate(ranks)
    order = np.argsort(row)  # buckets change the order of the questions, not that of a report
    return Report(
        name=name,
        known=tuple(scorer.known),
        protocol=dataset.split.name,
        part=PARTS[part],
        filter_seen=filter_seen,
        candidates=dataset.schema.items - FIRST,
        ks=tuple(ks),
        rank=rank[order],
        row=row[order],
        user=dataset.store.user_of(row[order]),
        facts={key: values[order] for key, values in columns.items()},
    )


def fetched(x: Any) -> np.ndarray:
    """An array as NumPy has it, also where its parts lie on devices of other processes."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        mesh = x.sharding.mesh  # pyright: ignore[reportAttributeAccessIssue] (a mesh is what spans processes)
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        x = jax.jit(lambda x: x, out_shardings=everywhere)(x)
    return np.asarray(x)


def seen_lists(offsets: np.ndarray, items: np.ndarray, size: int, width: int) -> np.ndarray:
    """Compressed rows of item ids as a padded array, each id once: int32 (B, width), 0 is padding.

    offsets: int64 (B+1,). size: V; ids below FIRST are left out.
    """
    blocks = len(offsets) - 1
    owner = np.repeat(np.arange(blocks), np.diff(offsets))
    known = items >= FIRST
    key = np.unique(owner[known] * size + items[known])
    owner, item = key // size, (key % size).astype(np.int32)
    start = np.searchsorted(owner, np.arange(blocks))
    lists = np.zeros((blocks, width), np.int32)
    lists[owner, np.arange(len(owner)) - start[owner]] = item
    return lists


def _seen_width(dataset: Dataset, rows: np.ndarray) -> int:
    """The longest list a target can have: one width for all blocks, so nothing compiles twice."""
    return min(int(dataset.history(rows).count.max()), dataset.schema.items)


def no_nan(bad: np.ndarray, rows: np.ndarray, name: str) -> None:
    """Raise UserError where any target of a block, of the store's `rows`, has a score that is NaN."""
    if bad.any():
        raise UserError(
            f"{name} gave NaN scores for {int(bad.sum())} of {len(bad)} targets of a block "
            f"(store rows {rows[bad][:5].tolist()}): look for NaN inputs or a diverged model"
        )
