"""The whole model: encoders, fusion, interest, head; from raw events to scores, in parallel or by steps.

F_l = Fusion(item_l, Encoder_m(events_1..l) for every modality m)
I_l = Interest(F_1..F_l)
p(v | l) = Head(I_l, query_{l+1}, items)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict

from stjax.events import Batch, Catalogue, Events, Query
from stjax.nn.base import Encoder, Fusion, Interest
from stjax.nn.content import ItemEmbed
from stjax.nn.dropout import Dropout
from stjax.nn.fusion import ConcatFusion
from stjax.nn.heads import Retrieval
from stjax.nn.interest import GRU
from stjax.nn.missing import Hide, HideIds, StandIns, check_rate
from stjax.nn.past import Moment, Past
from stjax.nn.precision import Precision, check, compute, in_precision
from stjax.nn.ranking import Memory, Ranking, Task
from stjax.nn.space import located
from stjax.nn.time import TimeEmbed
from stjax.nn.when import NextTime
from stjax.ops import sequence


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UserState:
    """All that is kept of a user between events: bounded, whatever the length of the history.

    encoders: one state per modality. fusion, interest: their own. h: (B, D), the last interest.
    past: the last events, as the head's pointer reads them. memory: as the ranking head does.
    """

    encoders: Mapping[str, Any]
    fusion: Any
    interest: Any
    h: Any
    past: Past
    memory: Memory


class Recommender(nn.Module):
    """Predicts the next item from the events so far and what is known of the request.

    encoders: the modalities beside the item itself, by name; leave one out to do without it.
    ranking: a second head on the same interest, which says of a given candidate what will become of it
      (clicked, bought, rated); its loss is added to the first head's.
    when: learns the time of the next event. Training then reads that time; a request whose time is not known
      is answered by the expectation over it. With a ranking head "time" must be known.
    ordered: False for logs in which the order of events means nothing: training then reads each sequence in
      an order that is drawn anew each time.
    leave_one_out: training, in an order that is drawn, asks for each event given all others of its sequence
      rather than those before it: histories are then as long as those that a request reads, and so the
      probabilities fit them. ValueError unless ordered=False, the interest has `others`, and no encoder, no
      fusion and no part of the head reads what came before.
    dropout: of fused events, in training.
    hide: share of the values of events (item, place, fields) that training hides from the encoders, so that
      missing and unseen values have learned embeddings where the log has none or few.
    item_dropout: share of the items of each sequence that training reads without a row of their own, as if it
      had not seen them, wherever they occur in it (`HideIds`). The candidates of the answer keep theirs.
    modality_dropout: share of (sequence, modality) pairs that training leaves out; what stands in is learned.
    absent: encoders to do without, at serving time: `model.clone(absent=("space",))` has the same
      parameters and never runs that encoder. Without modality dropout in training, zeros stand in. What else
      reads times and places (pointer, distance, gates, biases) goes by the events, whose places may be NaN.
    precision: "bfloat16" multiplies in it and keeps activations in it, with sums in float32, for accelerators
      and for half the memory. Parameters, states, times and distances, softmaxes, means and variances, losses
      and what a model answers are float32 in either. The parameters are the same: a model trained in one may
      serve in the other. ValueError for other names.
    """

    items: ItemEmbed = ItemEmbed()
    encoders: Mapping[str, Encoder] = field(default_factory=lambda: {"time": TimeEmbed()})
    fusion: Fusion = ConcatFusion()
    interest: Interest = GRU()
    head: Retrieval = Retrieval()
    ranking: Ranking | None = None
    when: NextTime | None = None
    ordered: bool = True
    leave_one_out: bool = False
    dropout: float = 0.1
    hide: float = 0.0
    item_dropout: float = 0.0
    modality_dropout: float = 0.0
    absent: tuple[str, ...] = ()
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        # A dict would make the model unhashable, and so no static argument of a jitted function.
        object.__setattr__(self, "encoders", FrozenDict(self.encoders))
        super().__post_init__()

    def setup(self) -> None:
        check(self.precision)
        if "item" in self.encoders:
            raise ValueError('encoders: "item" is the item\'s own part, choose another name')
        if unknown := set(self.absent) - set(self.encoders):
            raise ValueError(f"absent: {sorted(unknown)} is not among the encoders {sorted(self.encoders)}")
        tasks = () if self.ranking is None else self.ranking.tasks
        labels = [task.field for task in tasks if isinstance(task, Task)]
        if leaked := sorted(set(labels) & set(self.head.known)):
            raise ValueError(f"ranking: the labels {leaked} are in head.known: the model would read them")
        if self.when is not None and self.ranking is not None and "time" not in self.known:
            raise ValueError(
                'when: a ranking head needs a time; name "time" in head.known, or do without one'
            )
        if self.leave_one_out:
            self._check_others()
        self.drop = Dropout(self.dropout)
        self.hidden = Hide(self.hide)
        check_rate("item_dropout", self.item_dropout)
        self.hidden_ids = HideIds(self.item_dropout)
        self.stand_ins = StandIns(self.modality_dropout)

    def _check_others(self) -> None:
        """Refuse what would show an event to itself, or has no meaning without order."""
        names = tuple(sorted(["item", *self.encoders]))
        looks_back = [name for name, own in self.encoders.items() if jax.tree.leaves(own.init_state(1))]
        fused = jax.tree.leaves(self.fusion.init_state(1, names))
        for wrong, remedy in (
            (self.ordered, "ordered=False"),
            (type(self.interest).others is Interest.others, "an interest without order, such as Mean()"),
            (looks_back, f"encoders that look at one event alone; {looks_back} do not"),
            (fused, "a fusion that looks at one event alone"),
            (self.head.pointer is not None, "head.pointer=None"),
            (self.when is not None, "when=None"),
            ({"time", "place"} & set(self.known), "no time and no place in head.known"),
        ):
            if wrong:
                raise ValueError(f"leave_one_out=True: it needs {remedy}")

    @property
    def known(self) -> tuple[str, ...]:
        """The query fields that the head may read."""
        return self.head.known

    @in_precision
    def item_table(self, catalogue: Catalogue) -> jax.Array:
        """The vectors of all items, (V, D); compute once where parameters do not change."""
        return self.items(catalogue)

    @in_precision
    def loss(
        self, batch: Batch, catalogue: Catalogue, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean negative log-likelihood of the next items over the batch's weights, and scalars to log."""
        whole = batch.events
        if train and not self.ordered:
            order = sequence.shuffled(self.make_rng("dropout"), whole.valid)
            whole = jax.tree.map(lambda x: sequence.take(x, order), whole)
        events, target = located(whole[:, :-1], catalogue), whole[:, 1:]
        table, others = self.items(catalogue), train and self.leave_one_out
        read = located(whole, catalogue) if others else events
        x, h = self._encode(read, table, catalogue, train, others)
        if others:  # the first of the drawn order is read, not asked for
            x, h = x[:, :-1], h[:, 1:]
        past = self._past(events, x, h)
        learnt = () if self.when is None or "time" in self.known else ("time",)
        query = Query.of(target, self.known + learnt)
        position = jnp.broadcast_to(jnp.arange(events.item.shape[1]), events.item.shape)
        now = _moment(query, past, past.shift(1), position)
        u = self.head.request(h, query, past, catalogue)
        loss, sums = self.head.loss(u, now, past, target.item, batch.weight, table, catalogue, train)
        if self.when is not None:
            timed = self.when.loss(h, past, target.time, batch.weight)
            loss, sums = loss + self.when.weight * timed, sums | {"when_loss": timed}
        if self.ranking is not None:
            candidates = self.ranking.candidates(target.item, table.shape[0], train)
            readable = _others(read, position + 1) if others else _before(read, position)
            repeated = self._repeated(candidates, query, read, *readable)
            more, scalars = self.ranking.loss(
                u,
                table[candidates],
                target,
                batch.weight,
                catalogue.schema,
                train,
                candidates,
                repeated,
            )
            loss, sums = loss + more, sums | scalars
        total = jnp.maximum(batch.weight.sum(), 1.0)
        return loss / total, {name: value / total for name, value in sums.items()}

    @in_precision
    def scores(self, history: Events, query: Query, catalogue: Catalogue) -> jax.Array:
        """log p(item) after the whole history: (B, L) events and (B,) query to (B, V)."""
        table = self.items(catalogue)
        history = located(history, catalogue)
        x, h = self._encode(history, table, catalogue, False)
        past = self._past(history, x, h)
        position = jnp.maximum(history.valid.sum(axis=1) - 1, 0)
        return self._answer(sequence.last(h, history.valid), past, position, query, table, catalogue)

    def init_state(self, batch: int) -> UserState:
        """The state of users without any event."""
        pointer = self.head.pointer
        # The pointer compares up to two events before the ones it may point at.
        length, width = (1, 0) if pointer is None else (pointer.window + 2, pointer.features)
        shape = (batch, length)
        # An array of its own for every leaf, so that the state can be donated.
        past = Past(
            item=jnp.zeros(shape, jnp.int32),
            time=jnp.zeros(shape, jnp.int32),
            utc_offset=jnp.zeros(shape, jnp.int32),
            place=jnp.full((*shape, 2), jnp.nan),
            valid=jnp.zeros(shape, bool),
            key=jnp.zeros((*shape, width)),
        )
        features = self.fusion.features
        return UserState(
            encoders={name: encoder.init_state(batch) for name, encoder in self._present()},
            fusion=self.fusion.init_state(batch, tuple(sorted(["item", *self.encoders]))),
            interest=self.interest.init_state(batch, features),
            h=jnp.zeros((batch, features)),
            past=past,
            memory=self._empty_memory(batch),
        )

    @in_precision
    def step(
        self, state: UserState, event: Events, catalogue: Catalogue, table: jax.Array | None = None
    ) -> UserState:
        """Read one event per user, (B,); rows whose event is invalid keep their state.

        table: `item_table(catalogue)`, where it is at hand.
        """
        table = self.items(catalogue) if table is None else table
        event = located(event, catalogue)
        parts, encoders = {"item": table[event.item]}, {}
        for name, encoder in self._present():
            encoders[name], parts[name] = encoder.step(state.encoders[name], event, catalogue)
        parts = self._stand_in(parts, False)
        fusion, x = self.fusion.step(state.fusion, parts, event)
        interest, h = self.interest.step(state.interest, x, event)
        pointer = self.head.pointer
        key = jnp.zeros((h.shape[0], 0)) if pointer is None else pointer.keys(compute(state.h), x)
        new = Past(
            event.item,
            event.time,
            event.utc_offset,
            event.place,
            event.valid,
            key,
        )
        past = jax.tree.map(lambda m, n: sequence.push(m, n, event.valid), state.past, new)
        memory = state.memory.read(Memory.of(event, self.known))
        h = sequence.select(event.valid, h.astype(state.h.dtype), state.h)
        return UserState(encoders, fusion, interest, h, past, memory)

    @in_precision
    def read(
        self, state: UserState, events: Events, catalogue: Catalogue, table: jax.Array | None = None
    ) -> UserState:
        """Chunk form: read a few more events per user, (B, L), in one compiled loop of steps."""
        table = self.items(catalogue) if table is None else table

        def body(model: Recommender, state: UserState, event: Events) -> tuple[UserState, None]:
            return model.step(state, event, catalogue, table), None

        return nn.scan(body, variable_broadcast="params", split_rngs={}, in_axes=1)(self, state, events)[0]

    @in_precision
    def answer(
        self,
        state: UserState,
        query: Query,
        catalogue: Catalogue,
        table: jax.Array | None = None,
    ) -> jax.Array:
        """log p(item) for the users' states and queries (B,): (B, V). Equals `scores` of the same events."""
        table = self.items(catalogue) if table is None else table
        position = jnp.full(state.h.shape[0], state.past.item.shape[1] - 1)
        return self._answer(compute(state.h), state.past, position, query, table, catalogue)

    @in_precision
    def rank(
        self, history: Events, query: Query, candidates: jax.Array, catalogue: Catalogue
    ) -> dict[str, jax.Array]:
        """What becomes of each candidate now, by the ranking head: item ids (B, C) to {task: (B, C)}.

        Logits of binary tasks, values of regressions. Raises ValueError for a model without that head.
        """
        table = self.items(catalogue)
        history = located(history, catalogue)
        x, h = self._encode(history, table, catalogue, False)
        past = self._past(history, x, h)
        position = jnp.maximum(history.valid.sum(axis=1) - 1, 0)
        readable = _before(history, position[:, None])
        repeated = self._repeated(candidates[:, None], _one(query), history, *readable)
        h = sequence.last(h, history.valid)
        return self._rank(h, past.at(position), query, candidates, repeated, table, catalogue)

    @in_precision
    def answer_rank(
        self,
        state: UserState,
        query: Query,
        candidates: jax.Array,
        catalogue: Catalogue,
        table: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """As `rank`, from the users' states; equal to it."""
        table = self.items(catalogue) if table is None else table
        last = jax.tree.map(lambda x: x[:, -1:], state.past)
        repeated = None
        if self.ranking is not None:
            readable = state.memory.valid[:, None]
            repeated = self.ranking.repeated(candidates[:, None], _one(query), state.memory, readable)
        return self._rank(compute(state.h), last, query, candidates, repeated, table, catalogue)

    def _rank(
        self,
        h: jax.Array,
        last: Past,
        query: Query,
        candidates: jax.Array,
        repeated: jax.Array | None,
        table: jax.Array,
        catalogue: Catalogue,
    ) -> dict[str, jax.Array]:
        if self.ranking is None:
            raise ValueError("the model has no ranking head: build it with ranking=Ranking(tasks=...)")
        u = self.head.request(h, query, jax.tree.map(lambda x: x[:, 0], last), catalogue)
        return self.ranking(u, table[candidates], False, None if repeated is None else repeated[:, 0])

    def _repeated(
        self, candidates: jax.Array, query: Query, events: Events, readable: jax.Array, ago: jax.Array
    ) -> jax.Array | None:
        """How often the candidates (B, Q, C) were among the readable of the last events; see `_before`."""
        if self.ranking is None:
            return None
        readable = readable & (ago < self.ranking.memory)
        return self.ranking.repeated(candidates, query, Memory.of(events, self.known), readable)

    def _empty_memory(self, batch: int) -> Memory:
        shape = (batch, 0 if self.ranking is None else self.ranking.memory)
        fields = [name for name in self.known if name not in ("time", "place")]
        return Memory(
            item=jnp.zeros(shape, jnp.int32),
            valid=jnp.zeros(shape, bool),
            categorical={name: jnp.zeros(shape, jnp.int32) for name in fields},
        )

    def _encode(
        self, events: Events, table: jax.Array, catalogue: Catalogue, train: bool, others: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        events = self.hidden(events, train)
        item = table[events.item]
        if train and self.item_dropout > 0:
            item = self.hidden_ids(events.item, item, self.items(catalogue, own=False)[events.item])
        if train and self.hide > 0:
            # The events are located: an encoder must not look a hidden place up again.
            nowhere = jnp.full_like(catalogue.place, jnp.nan)
            catalogue = dataclasses.replace(catalogue, place=nowhere)
        parts = {"item": item}
        for name, encoder in self._present():
            parts[name] = encoder(events, catalogue)
        x = self.fusion(self._stand_in(parts, train), events)
        interest = self.interest.others if others else self.interest
        h = interest(self.drop(x, train), events, train)
        return x, h

    def _present(self) -> list[tuple[str, Encoder]]:
        return [(name, encoder) for name, encoder in self.encoders.items() if name not in self.absent]

    def _stand_in(self, parts: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        widths = {name: self.encoders[name].features for name in self.absent}
        return {name: compute(part) for name, part in self.stand_ins(parts, widths, train).items()}

    def _past(self, events: Events, x: jax.Array, h: jax.Array) -> Past:
        pointer = self.head.pointer
        key = x[..., :0] if pointer is None else pointer.keys(sequence.shift(h), x)
        return Past(events.item, events.time, events.utc_offset, events.place, events.valid, key)

    def _answer(
        self,
        h: jax.Array,
        past: Past,
        position: jax.Array,
        query: Query,
        table: jax.Array,
        catalogue: Catalogue,
    ) -> jax.Array:
        if self.when is None or query.time is not None:
            return self._answer_at(h, past, position, query, table, catalogue)
        last = jax.tree.map(lambda x: x[:, 0], past.at(position))

        def body(model: Recommender, mean: jax.Array, gap_log_p: tuple[Any, Any]) -> tuple[jax.Array, None]:
            gap, log_p = gap_log_p
            timed = dataclasses.replace(query, time=last.time + gap, utc_offset=last.utc_offset)
            answer = model._answer_at(h, past, position, timed, table, catalogue)
            return jnp.logaddexp(mean, log_p[:, None] + answer), None

        # One gap after the other: K arrays (B, V) would be too many.
        gaps = jnp.asarray(self.when.gaps), jnp.moveaxis(self.when(h, last), -1, 0)
        start = jnp.full((h.shape[0], table.shape[0]), -jnp.inf)
        return nn.scan(body, variable_broadcast="params", split_rngs={"params": False})(self, start, gaps)[0]

    def _answer_at(
        self,
        h: jax.Array,
        past: Past,
        position: jax.Array,
        query: Query,
        table: jax.Array,
        catalogue: Catalogue,
    ) -> jax.Array:
        last, before = past.at(position), past.shift(1).at(position)
        u = self.head.request(h, query, jax.tree.map(lambda x: x[:, 0], last), catalogue)
        now = _moment(_one(query), last, before, position[:, None])
        return self.head.scores(u, now, past, table, catalogue)


def _one(query: Query) -> Query:
    """One request a row: (B,) to (B, 1)."""
    return jax.tree.map(lambda x: x[:, None], query)


def _before(events: Events, position: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The events up to `position` (B, Q): which are readable and how many came after each, (B, Q, L)."""
    ago = position[:, :, None] - jnp.arange(events.item.shape[1])
    return events.valid[:, None] & (ago >= 0), ago


def _others(events: Events, position: jax.Array) -> tuple[jax.Array, jax.Array]:
    """All events but that at `position` (B, Q), as if the order went round and ended before it."""
    ago = position[:, :, None] - 1 - jnp.arange(events.item.shape[1])
    count = events.valid.sum(axis=1)[:, None, None]
    return events.valid[:, None] & (ago != -1), ago % jnp.maximum(count, 1)


def _moment(query: Query, last: Past, before: Past, position: jax.Array) -> Moment:
    """Now and here: of the query where it knows them, else of the last event read."""
    place = last.place
    if query.place is not None:
        place = jnp.where(jnp.isnan(query.place), place, query.place)
    return Moment(
        time=last.time if query.time is None else query.time,
        utc_offset=last.utc_offset if query.utc_offset is None else query.utc_offset,
        place=place,
        position=position,
        item=last.item,
        item_before=before.item,
    )
