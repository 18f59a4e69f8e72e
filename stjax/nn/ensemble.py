"""An ensemble: the same model from several random starts, trained together, asked together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from stjax.events import Batch, Catalogue, Events, Query
from stjax.nn.checks import check_counts
from stjax.nn.ranking import Ranking
from stjax.nn.recommender import Recommender, UserState


class Ensemble(nn.Module):
    """p(v) is the mean of the members' probabilities (Lakshminarayanan et al., NeurIPS 2017).

    It has the methods of its model. Members differ in their first parameters and in what dropout leaves out;
    they read the same batches. Every parameter has a leading dimension K, the members, and so time and memory
    grow by K. Each leaf of a state is (B, K, ...).

    member: what each of them is; sharding and weight decay know by this name, in a parameter's path, that it
      is of all members. members: K, at least 1; ValueError otherwise.
    """

    member: Recommender = Recommender()
    members: int = 4

    def setup(self) -> None:
        check_counts(self, "members")

    @property
    def ranking(self) -> Ranking | None:
        """The members' ranking head."""
        return self.member.ranking

    @property
    def known(self) -> tuple[str, ...]:
        """The query fields that the members may read."""
        return self.member.known

    @property
    def ordered(self) -> bool:
        """Whether the order of events means anything to the members."""
        return self.member.ordered

    def loss(
        self, batch: Batch, catalogue: Catalogue, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean over the members of their losses, and of the scalars to log."""
        each = self._each(lambda model, batch: model.loss(batch, catalogue, train), None)
        return jax.tree.map(lambda x: x.mean(axis=0), each(self.member, batch))

    def scores(self, history: Events, query: Query, catalogue: Catalogue) -> jax.Array:
        """log p(item) after the whole history: (B, L) events and (B,) query to (B, V)."""
        each = self._each(lambda model, history: model.scores(history, query, catalogue), None)
        return self._mean(each(self.member, history))

    def item_table(self, catalogue: Catalogue) -> jax.Array:
        """The vectors of all items, (K, V, D)."""
        return self._each(lambda model, catalogue: model.item_table(catalogue), None)(self.member, catalogue)

    def init_state(self, batch: int) -> UserState:
        """The state of users without any event."""
        state = self.member.init_state(batch)
        return jax.tree.map(lambda x: jnp.repeat(x[:, None], self.members, axis=1), state)

    def step(
        self, state: UserState, event: Events, catalogue: Catalogue, table: jax.Array | None = None
    ) -> UserState:
        """Read one event per user, (B,); rows whose event is invalid keep their state."""
        return self._advance("step", state, event, catalogue, table)

    def read(
        self, state: UserState, events: Events, catalogue: Catalogue, table: jax.Array | None = None
    ) -> UserState:
        """Read a few more events per user, (B, L)."""
        return self._advance("read", state, events, catalogue, table)

    def answer(
        self, state: UserState, query: Query, catalogue: Catalogue, table: jax.Array | None = None
    ) -> jax.Array:
        """log p(item) for the users' states and queries (B,): (B, V). Equals `scores` of the same events."""
        table = self.item_table(catalogue) if table is None else table
        each = self._each(
            lambda model, state, table: model.answer(state, query, catalogue, table), (1, 0), out=0
        )
        return self._mean(each(self.member, state, table))

    def rank(
        self, history: Events, query: Query, candidates: jax.Array, catalogue: Catalogue
    ) -> dict[str, jax.Array]:
        """What becomes of each candidate now: item ids (B, C) to {task: (B, C)}.

        Logits of the mean probability of binary tasks, the mean value of regressions. Raises ValueError for
        members without a ranking head.
        """
        each = self._each(lambda model, history: model.rank(history, query, candidates, catalogue), None)
        return self._mean_tasks(each(self.member, history))

    def answer_rank(
        self,
        state: UserState,
        query: Query,
        candidates: jax.Array,
        catalogue: Catalogue,
        table: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """As `rank`, from the users' states; equal to it."""
        table = self.item_table(catalogue) if table is None else table
        each = self._each(
            lambda model, state, table: model.answer_rank(state, query, candidates, catalogue, table),
            (1, 0),
            out=0,
        )
        return self._mean_tasks(each(self.member, state, table))

    def _advance(
        self, method: str, state: UserState, events: Events, catalogue: Catalogue, table: jax.Array | None
    ) -> UserState:
        table = self.item_table(catalogue) if table is None else table
        each = self._each(
            lambda model, state, table: getattr(model, method)(state, events, catalogue, table), (1, 0), out=1
        )
        return each(self.member, state, table)

    def _each(self, function: Callable[..., Any], axes: Any, out: int = 0) -> Callable[..., Any]:
        """The function of a model, for all members; axes: where the members are in its arguments."""
        return nn.vmap(
            function,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=axes,
            out_axes=out,
            axis_size=self.members,
        )

    def _mean(self, log_p: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(log_p, axis=0) - jnp.log(self.members)

    def _mean_tasks(self, predicted: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Of {task: (K, B, C)}."""
        assert self.ranking is not None  # else the members have raised
        return {
            task.name: _mean_odds(own) if task.kind == "binary" else own.mean(axis=0)
            for task in self.ranking.tasks
            for own in [predicted[task.name].astype(jnp.float32)]
        }


def _mean_odds(logits: jax.Array) -> jax.Array:
    """Logits (K, ...) to that of their mean probability (...)."""
    yes, no = (jax.nn.logsumexp(jax.nn.log_sigmoid(x), axis=0) for x in (logits, -logits))
    return yes - no
