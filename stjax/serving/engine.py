"""The engine: events go in, recommendations come out, for many users and many threads at once."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stjax.data.dataset import Dataset
from stjax.errors import ConfigError, UserError
from stjax.events import Catalogue
from stjax.serving.admission import admit
from stjax.serving.candidates import Source
from stjax.serving.codec import BadEvent, Codec
from stjax.serving.combine import Call, Combiner
from stjax.serving.core import Core
from stjax.serving.exported import Model, check_run, check_settings
from stjax.serving.load import Trained, read_history
from stjax.serving.load_export import load_trained
from stjax.serving.messages import Event, Item, Recommendation, Request
from stjax.serving.record import Record, digest
from stjax.serving.settings import Settings
from stjax.serving.tuning import Recent, Tuned, finite, trained
from stjax.serving.vocabulary import Vocabulary


@dataclass(frozen=True)
class Observed:
    """What became of a call's events: how many were accepted, and why others were not, by their position in
    the call. repeated: positions of events whose `id` was accepted before, which were not read again."""

    accepted: int
    refused: Mapping[int, str] = field(default_factory=dict)
    repeated: Sequence[int] = ()


class Engine:
    """A trained model that lives inside a service. All methods may be called from any thread.

    An event is acknowledged when `observe` returns: then it is in the journal, if there is a folder, and in
    the state of its user. After any stream of events the answers are those of the model's whole forward
    pass over each user's accepted events in the order of their times.

    folder: of journal and snapshots, one engine at a time; None keeps nothing beyond the process. An engine
    with a folder goes on where the one before it stood, however that one ended.
    candidates: of requests that ask for some, see `stjax.serving.candidates`.
    version: of the parameters, which states are bound to; None: the name and their digest.
    clock: now, in Unix seconds.
    """

    def __init__(
        self,
        model: Model,
        params: Any,
        catalogue: Catalogue,
        vocabulary: Mapping[str, Vocabulary],
        *,
        name: str = "model",
        version: str | None = None,
        settings: Settings | None = None,
        folder: str | os.PathLike[str] | None = None,
        candidates: Source | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings, self._clock = settings or Settings(), clock
        check_settings(model, self.settings)
        version = version or f"{name}@{digest(params)}"
        self._core = Core(model, params, catalogue, vocabulary, self.settings, version, candidates)
        self._name, self._model = name, model
        self._tuning = threading.Lock()
        self._before: tuple[Any, str] | None = None  # parameters and version before the last swap
        self._combiner = Combiner(self._work)
        self._broken: BaseException | None = None
        self._record: Record | None = None
        self._saving = threading.Lock()
        self._unsaved = 0  # events since the last snapshot
        if folder is not None:
            about = {"version": version, "schema": dataclasses.asdict(catalogue.schema)}
            self._record = Record(Path(folder), about, self.settings.sync)
            try:
                self._unsaved = self._record.recover(self._core)
            except BaseException:
                self._record.close()
                raise

    @classmethod
    def load(
        cls,
        run: str | os.PathLike[str] | Trained,
        *,
        settings: Settings | None = None,
        folder: str | os.PathLike[str] | None = None,
        history: bool = True,
        candidates: Callable[[Dataset], Source] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Engine:
        """The best checkpoint of a finished run folder of `train.py`, or an export of it, as an engine.

        An export answers as its run does, and goes on with a `folder` of its run's engine, or the other way
        round. It has no log, does not learn (`fine_tune`), takes no new items and runs on one device.

        run: the folder; or what `load_trained` gave, where it serves for more than the engine.
        history: whether users begin with their events of the run's log; not where `folder` holds users. Of an
        export all begin without.
        candidates: makes their source from that log, such as `stjax.serving.candidates.Neighbours`.
        Raises UserError where the folder is neither, or not whole, or the run's data are no longer there;
        ConfigError where an export is asked for what it cannot do.
        """
        if not isinstance(run, Trained):
            run = load_trained(run, None if settings is None else settings.sharding)
        if candidates is not None and run.dataset is None:
            raise ConfigError(
                "candidates: an export has no log to make them of; load the run folder, or give the source to"
                " `Engine(...)` itself with what `load_export` gives"
            )
        source = None if candidates is None or run.dataset is None else candidates(run.dataset)
        engine = cls(
            run.model,
            run.params,
            run.catalogue,
            run.vocabulary,
            name=run.name,
            version=run.version,
            settings=settings,
            folder=folder,
            candidates=source,
            clock=clock,
        )
        try:
            if history and run.dataset is not None and not engine.status()["users"]:
                read_history(engine._core, run.dataset)
                engine.save()
        except BaseException:
            engine.close()
            raise
        return engine

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close()

    def observe(self, events: Sequence[Event]) -> Observed:
        """Read events of any users, in any order. What cannot be read is told and counted, not raised.

        Raises BadEvent where something else than an `Event` is among them, JournalError where the disk takes
        no more: then none of the call's events is accepted. A
        snapshot that cannot be written is counted, not raised: the journal has the events.
        """
        done = self._combiner("observe", _all(Event, events))
        if self._unsaved >= self.settings.snapshot_every:
            self._save_or_count(wait=False)
        return done

    def recommend(self, requests: Sequence[Request], k: int = 10) -> list[Recommendation]:
        """The k best items for each request, among all that it allows.

        Raises BadEvent for a request that cannot be answered, naming the field.
        """
        most = min(self.settings.shapes.tops[-1], self._core.items)
        if not (isinstance(k, (int, np.integer)) and 1 <= k <= most):
            raise BadEvent(
                f"k={k} must be from 1 to {most}: there are {self._core.items} items, and answers are made"
                f" for at most {self.settings.shapes.tops[-1]} (`Shapes.tops`)"
            )
        return self._combiner("recommend", (_all(Request, requests), int(k)))

    def add_items(self, items: Sequence[Item]) -> None:
        """Items that training has not seen, by their content: they can be observed and answered at once.

        A model scores them by their fields and place, with the popularity of an average item. Raises BadEvent
        for an item that is known or cannot be used, JournalError for a full disk; those before it are added.
        ConfigError for an export.
        """
        check_run(self._model, "add_items")
        self._combiner.exclusively(lambda: self._add_items(items))

    @property
    def version(self) -> str:
        """Of the parameters that answer now."""
        return self._core.version

    def fine_tune(
        self,
        events: Sequence[Event],
        *,
        groups: Sequence[str] = ("head",),
        since: float | None = None,
        epochs: int = 2,
        learning_rate: float = 1e-3,
        held_out: float = 0.2,
        seed: int = 0,
    ) -> Tuned:
        """Take gradient steps on recent events and answer by the new parameters, if they are not worse.

        It runs beside serving, in the caller's thread, one at a time. The model learns to foretell each event
        from those before it, as in training. The last of them, a share `held_out`, are not learnt from: where
        their mean reciprocal rank falls, or a parameter overflows, nothing is swapped. `rollback` brings the
        parameters before back.

        events: each user's recent ones, with as many before `since` as should be read for context.
        since: Unix seconds; earlier events are not learnt from. groups: parameters to change, by the
        beginnings of their paths. What states have read is not read again: parameters of the head alone, but
        for its pointer, never enter a state; where others change, a state mixes old and new.
        New parameters are kept with a snapshot: where the disk takes none now, with the next.
        Raises BadEvent for an event that cannot be used, ConfigError for settings that cannot, or an export.
        """
        check_run(self._model, "fine_tune")
        if not 0 < held_out < 1:
            raise ConfigError(f"held_out={held_out} must be a share between 0 and 1")
        if isinstance(groups, str) or not len(groups):
            raise ConfigError(f"groups={groups!r} must be a list of beginnings of paths, at least one")
        for name, value, least in (("epochs", epochs, 1), ("seed", seed, 0)):
            if not isinstance(value, (int, np.integer)) or value < least:
                raise ConfigError(f"{name}={value!r} must be at least {least}, a whole number")
        if not learning_rate > 0:
            raise ConfigError(f"learning_rate={learning_rate} must be above 0")
        with self._tuning:
            core = self._core
            codec = Codec(core.codec.schema, core.vocabulary)  # its own: it counts
            by_user: dict[str, list[np.ndarray]] = {}
            rows = [(event, codec.event(event, 0)) for event in _all(Event, events)]
            for event, row in sorted(rows, key=lambda each: each[1]["time"]):
                own = by_user.setdefault(str(event.user), [])
                if event.utc_offset is None:  # as when it is observed
                    row["utc_offset"] = own[-1]["utc_offset"] if own else core.offset(str(event.user))
                own.append(row)
            earliest = -(2**31) if since is None else codec.time(since)
            recent = Recent.of(by_user, codec, earliest, held_out)
            old, catalogue = core.weights.params, core.weights.catalogue
            new = trained(self._model, old, catalogue, recent, groups, learning_rate, epochs, seed)
            before, after = (
                float((1 / recent.ranks(self._model, params, catalogue)).mean()) for params in (old, new)
            )
            if swapped := after >= before and finite(new):
                self._swap(new, f"{self._name}@{digest(new)}")
            counts = len(recent.row), int(recent.weight.sum())
            return Tuned(swapped, before, after, *counts, self.version)

    def rollback(self) -> str:
        """Answer by the parameters before the last swap again. Returns their version; ConfigError where there
        was no swap since the start."""
        with self._tuning:
            if self._before is None:
                raise ConfigError(
                    "there are no parameters to go back to: nothing was swapped since the start"
                )
            self._swap(*self._before)
            return self.version

    def warm_up(self) -> float:
        """Compile all that will be called. Returns the seconds that took."""
        begin = time.perf_counter()
        self._combiner.exclusively(self._core.warm_up)
        return time.perf_counter() - begin

    def save(self) -> None:
        """Write a snapshot; the journal before it is dropped. Without a folder it does nothing.

        Calls wait only while the states are copied. Where another thread is at it, one more is written
        after that. Raises SnapshotError where it cannot be written.
        """
        self._save(wait=True)

    def close(self) -> None:
        """Release the folder. What was acknowledged is kept, called or not."""
        if self._record is not None:
            self._combiner.exclusively(self._record.close)

    def memory(self) -> dict[str, int]:
        """Bytes: of one user's state, of all on the device (or devices), of all on the host at most.

        seen: what the host keeps beside them for `exclude_seen`, now: the items that users had. It grows with
        events, to one bit for each user and item at most; Python's own share, some 200 bytes a user, apart.
        """
        each = self._core.programs.bytes_per_user()
        device, host = each * self._core.programs.slots, each * self.settings.users
        return {"user": each, "device": device, "host": host, "seen": self._core.users.seen_bytes}

    def users(self) -> list[str]:
        """Ids of all users with events, in the order in which they came."""
        return list(self._core.users.names)

    def status(self) -> dict[str, Any]:
        """Numbers for a monitor: events ever accepted, users, evictions, counts by cause since the start."""
        core = self._core
        return {
            "version": self.version,
            "events": core.counts["accepted"] if self._record is None else self._record.last,
            "users": len(core.users),
            "evictions": core.slots.evictions,
            "waiting": sum(len(rows) for rows in list(core.users.pending.values())),
            "counts": dict(core.counts.copy() + core.codec.counts.copy()),  # others may count meanwhile
            "memory": self.memory(),
        }

    def _save(self, wait: bool) -> None:
        if self._record is None or not self._saving.acquire(blocking=wait):
            return  # another thread is at it
        try:
            taken = self._combiner.exclusively(self._take)
            self._record.save(*taken)
            self._combiner.exclusively(self._record.trim)
        finally:
            self._saving.release()

    def _save_or_count(self, wait: bool) -> None:
        """Save beside what is done already: an error must not say that it was not."""
        try:
            self._save(wait)
        except UserError:
            self._combiner.exclusively(lambda: self._core.counts.update(["snapshots not written"]))

    def _take(self) -> tuple[int, dict[str, np.ndarray], dict[str, Any]]:
        assert self._record is not None
        self._unsaved = 0
        return self._record.captured(self._core)

    def _work(self, calls: Sequence[Call]) -> None:
        if self._broken is not None:
            raise UserError(
                f"the engine stopped after {type(self._broken).__name__}: {self._broken}; start it anew"
            )
        # Calls that run at the same time have no order between them.
        if observing := [call for call in calls if call.kind == "observe"]:
            self._observe(observing)
        if asking := [call for call in calls if call.kind == "recommend"]:
            self._recommend(asking)

    def _observe(self, calls: Sequence[Call]) -> None:
        admitted = admit(self._core, [call.argument for call in calls], self._clock())
        accepted = admitted.accepted
        try:
            if self._record is not None and accepted:
                self._record.append([event for event, _ in accepted])  # raises before anything has changed
        except UserError as error:
            for call in calls:
                call.fail(error)
            return
        try:
            self._core.apply([(event.user, row) for event, row in accepted])
            self._core.remember(event for event, _ in accepted)
        except BaseException as error:
            self._broken = error
            raise
        self._core.counts["accepted"] += len(accepted)
        self._unsaved += len(accepted)
        for call, causes, again in zip(calls, admitted.refused, admitted.repeated, strict=True):
            call.finish(Observed(len(call.argument) - len(causes) - len(again), causes, again))

    def _swap(self, params: Any, version: str) -> None:
        core = self._core

        def work() -> None:
            self._before = core.weights.params, core.version
            core.swap(params, version)

        self._combiner.exclusively(work)
        self._save_or_count(wait=True)  # a snapshot that is being written may be of before

    def _add_items(self, items: Sequence[Item]) -> None:
        try:
            for item in items:
                new = self._core.catalogue.prepared(item)
                if self._record is not None:
                    self._record.append([new.item])  # raises before anything has changed
                self._core.catalogue.add(new)
        finally:
            self._core.refresh()

    def _recommend(self, calls: Sequence[Call]) -> None:
        now, asked, good = self._clock(), [], []
        for call in calls:
            requests, k = call.argument
            try:
                asked.append([self._core.ask(request, k, now) for request in requests])
                good.append(call)
            except Exception as error:  # of this call: the others are of other threads
                call.fail(error)
        answers = iter(self._core.answer([one for own in asked for one in own]))
        for call, own in zip(good, asked, strict=True):
            call.finish([next(answers) for _ in own])


def _all(kind: type[Any], given: Sequence[Any]) -> list[Any]:
    """A call's events or requests. Raises BadEvent, in the caller's thread, where one is something else."""
    own = list(given)
    for i, one in enumerate(own):
        if not isinstance(one, kind):
            raise BadEvent(
                f"number {i} of the call is of type {type(one).__name__}: give stjax.serving.{kind.__name__}"
            )
    return own
