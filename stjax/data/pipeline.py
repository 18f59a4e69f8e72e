"""Training batches: windows of training events, shuffled by epoch, shared by processes, prefetched.

One element of the pipeline is one batch, gathered with one vectorised index per column. Batch
number i is a pure function of (dataset, settings, seed, i), so the state of an iterator is a
number.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stjax.data.dataset import Dataset, bucket_sizes
from stjax.data.protocols import categorical_ids
from stjax.data.windows import Windows, cut, take_runs
from stjax.errors import UserError
from stjax.events import MISSING, Batch

if TYPE_CHECKING:
    import grain


class Batches:
    """All training batches by number, without end: epoch after epoch of `per_epoch` batches.

    length: predictions per sequence; a batch's events are (B, length + 1). overlap: the least
    number of leading positions of a later window of a user that give context only. batch_size:
    sequences per batch of full length, over all processes.
    buckets: lengths below `length`; windows go to the smallest that holds them, each batch comes
    from one bucket, and shorter ones have more rows: batch_size · length / bucket, rounded down.
    multiple: what divides the rows of every batch (devices that share it). Batches are filled up to
    it, and the last batch of a bucket to the others' size, with empty rows: no valid event, weight 0.
    within: a categorical field of the store, e.g. trip: only events with the same value as the one before are
    predicted, all others are read; None: all are predicted.
    process_index, process_count: this process gathers its equal part of the rows of every batch;
    what a batch holds over all processes does not depend on their number, nor on `multiple`.
    Raises UserError for settings that do not fit each other, for a field that the store has not, or where
    there is nothing to predict.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        length: int,
        batch_size: int,
        seed: int,
        overlap: int = 0,
        buckets: Sequence[int] | None = None,
        multiple: int = 1,
        within: str | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        if not 0 <= process_index < process_count:
            raise UserError(f"process_index={process_index} is not below {process_count}")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1")
        if multiple < 1 or multiple % process_count:
            raise UserError(f"multiple={multiple} is not a multiple of {process_count} processes")
        sizes = bucket_sizes(buckets, length)
        rows = batch_size * length // sizes
        self._multiple = multiple
        self.dataset = dataset
        self.seed = seed
        self.process = process_index, process_count
        self.windows = cut(dataset.train_bounds, length, overlap)
        if not len(self.windows.first):
            raise UserError(
                f"{dataset.split.name} leaves no user of {dataset.store.path} two training events: "
                "there is no transition to learn from"
            )
        self._predicted = None
        if within is not None:
            self._predicted = continues(dataset, within)
            self.windows = _predicting(self.windows, self._predicted)
            if not len(self.windows.first):
                raise UserError(
                    f"no training event of {dataset.store.path} has the same {within!r} as the one before: "
                    "there is no transition to learn from; choose another field, or none"
                )
        first, size, _ = self.windows
        self._start = dataset.train_rows[first]
        # rows of a window are consecutive unless rows of another part lie between them
        self._run = dataset.train_rows[first + size - 1] - self._start == size - 1
        bucket = np.searchsorted(sizes, size - 1)
        members = [np.flatnonzero(bucket == k) for k in range(len(sizes))]
        self.buckets = [
            (length, rows, windows)
            for length, rows, windows in zip(sizes.tolist(), rows.tolist(), members, strict=True)
            if len(windows)
        ]
        batches = [-(-len(windows) // rows) for _, rows, windows in self.buckets]
        self._last = np.cumsum(batches)  # of the unshuffled batches: bucket after bucket
        self._order = functools.lru_cache(maxsize=2)(self._epoch)

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch, the same in each."""
        return int(self._last[-1])

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The shapes (B, L) of weights that occur in this process."""
        return [(self._part(rows), length) for length, rows, _ in self.buckets]

    def __len__(self) -> int:
        """A number without practical meaning, as Grain asks for one: the batches have no end."""
        return 2**31 * self.per_epoch

    def __getitem__(self, index: int) -> Batch:
        """This process's rows of batch number `index`."""
        epoch, at = divmod(int(index), self.per_epoch)
        batches, windows = self._order(epoch)
        which = int(batches[at])
        k = int(np.searchsorted(self._last, which, side="right"))
        length, rows, _ = self.buckets[k]
        nth = which - (int(self._last[k - 1]) if k else 0)
        part, process = self._part(rows), self.process[0]
        whole = windows[k][nth * rows : (nth + 1) * rows]
        return self._gather(whole[process * part : (process + 1) * part], part, length)

    def _part(self, rows: int) -> int:
        """This process's rows of a batch that is filled up to the multiple."""
        return -(-rows // self._multiple) * self._multiple // self.process[1]

    def _epoch(self, epoch: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The order of batches, and of the windows within each bucket, of one epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        windows = [rng.permutation(windows) for _, _, windows in self.buckets]
        return rng.permutation(self.per_epoch), windows

    def _gather(self, chosen: np.ndarray, rows: int, length: int) -> Batch:
        """The windows as a batch of `rows` rows, empty ones at the end."""
        first, size, context = (np.pad(values[chosen], (0, rows - len(chosen))) for values in self.windows)
        if self._run[chosen].all():
            start = np.pad(self._start[chosen], (0, rows - len(chosen)))
            events = self.dataset.gather_runs(start, size, length + 1)
        else:
            taken = take_runs(self.dataset.train_rows, first, length + 1)
            events = self.dataset.gather(taken, np.arange(length + 1) < size[:, None])
        position = np.arange(length)
        weight = (position >= context[:, None]) & (position < size[:, None] - 1)
        if self._predicted is not None:
            weight &= take_runs(self._predicted, first, length + 1)[:, 1:]
        return Batch(events, weight.astype(np.float32))


def continues(dataset: Dataset, field: str) -> np.ndarray:
    """Whether a training event is of its user's last one's trip, session or other field: bool, of train_rows.

    Raises ProtocolError for a field that is not a categorical one of the events.
    """
    value = categorical_ids(dataset.store, field, "batching.within")[dataset.train_rows]
    same = np.zeros(len(value), bool)
    same[1:] = (value[1:] == value[:-1]) & (value[1:] != MISSING)
    first = dataset.train_bounds[:-1]
    same[first[first < len(value)]] = False
    return same


def _predicting(windows: Windows, predicted: np.ndarray) -> Windows:
    """Those of the windows that predict anything."""
    until = np.concatenate([[0], np.cumsum(predicted)])
    first, size, context = windows
    some = until[first + size] > until[first + context + 1]
    return Windows(first[some], size[some], context[some])


def stream(batches: Batches, prefetch: int = 4) -> grain.IterDataset[Batch]:
    """Batches as a Grain dataset without end: one thread prepares `prefetch` batches ahead.

    iter() of it has get_state and set_state; the state is the number of the next batch, so it
    resumes under any process count.
    """
    import grain  # here, so that importing this module does not need Grain

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    return grain.MapDataset.source(batches).to_iter_dataset(options)
