"""Matrix factorization for implicit feedback by pairwise ranking (BPR-MF)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stjax.baselines.checks import check
from stjax.baselines.counts import training_counts
from stjax.baselines.padded import Chunk, chunks, distinct_items
from stjax.baselines.progress import counted
from stjax.baselines.scorer import Scorer
from stjax.data.dataset import Dataset
from stjax.events import Array, Query

WIDTH = 8  # items of a history that a step at a request learns from
AT_ONCE = 32  # users of a request whose factors are learnt together


@dataclass(frozen=True)
class BPR:
    """User and item factors that rank what a user had above what the user had not (Rendle et al., UAI 2009).

    Minimises, by stochastic gradient descent over pairs (u, i) of the training part and items j drawn from
    those that u had not,

        sum_(u, i, j) -log sigmoid(s_ui - s_uj) + regularisation / 2 (|x_u|^2 + |y_i|^2 + |y_j|^2
                                                                      + b_i^2 + b_j^2)

    with s_uv = x_u'y_v + b_v. At a request the user's factors are those of training, zero for a user that
    training has not seen. From the items that may be read but that training has not seen of this user they
    learn on, the items' factors held fixed, in as many passes at the same rate; so new users and new
    events count at once.

    factors: K. learning_rate: of each pair's gradient. epochs: passes of as many drawn pairs as there are.
    batch: pairs whose gradients are summed before a step. popularity: j is drawn as likely as the number of
    users who had it to this power, 0 for all alike. draws: of j at most, until one is not the user's own;
    where all are, the pair is left out of the step. seed: of the first factors and all draws.
    ConfigError for factors, epochs, a batch or draws below 1, a learning rate not above 0, a regularisation
    or a popularity below 0.
    """

    factors: int = 64
    learning_rate: float = 0.05
    regularisation: float = 0.01
    epochs: int = 50
    batch: int = 256
    popularity: float = 0.0
    draws: int = 4
    seed: int = 0

    known = ()

    def __post_init__(self) -> None:
        check(
            self,
            counts=("factors", "epochs", "batch", "draws"),
            positive=("learning_rate",),
            not_negative=("regularisation", "popularity"),
        )

    def fit(self, dataset: Dataset) -> Scorer:
        """Learn the factors; what training has not seen of a user is learnt at each request."""
        pairs = training_counts(dataset)
        user, item, _ = pairs.coordinates
        return self.scorer(dataset, self.factorise(user, item, (dataset.store.users, pairs.width)))

    def scorer(self, dataset: Dataset, factors: Factors) -> Scorer:
        """Scores by factors of whatever origin, of the store's users and the training's items."""
        pairs = training_counts(dataset)
        user, item, _ = pairs.coordinates
        had = Had.of(user, item, dataset.store.users)
        negatives = _likelihood(item, pairs.width, self.popularity)
        users, table, bias = (np.asarray(part, np.float32) for part in factors)
        table = table.T
        learn = partial(
            _fold_in,
            factors=Factors(*map(jnp.asarray, factors)),
            start=jnp.asarray(had.start),
            item=jnp.asarray(had.item),
            negatives=jnp.asarray(negatives),
            key=jax.random.key(self.seed),
            rate=jnp.float32(self.learning_rate),
            regularisation=jnp.float32(self.regularisation),
            passes=self.epochs,
            draws=self.draws,
            rounds=had.rounds,
        )

        def score(query: Query, rows: np.ndarray) -> np.ndarray:
            del query
            asked = dataset.store.user_of(np.asarray(rows))
            own = distinct_items(dataset, rows)
            owner, item, count = own.coordinates
            new = ~np.isin(asked[owner] * np.int64(pairs.width) + item, pairs.key)
            x = np.concatenate([users[asked], np.zeros((1, users.shape[1]), np.float32)])
            whose = np.append(asked, 0)  # the last row takes what fills up
            for part in chunks(owner[new], item[new], count[new], len(rows), self.factors, AT_ONCE):
                for chunk in zip(*part, strict=True):
                    chunk = Chunk(*chunk)
                    x[chunk.row] = learn(x[chunk.row], whose[chunk.row], chunk)
            return x[:-1] @ table + bias

        return Scorer("BPR matrix factorization", (), score)

    def factorise(self, user: np.ndarray, item: np.ndarray, shape: tuple[int, int]) -> Factors:
        """Factors of a matrix of ones in coordinates, each pair once, sorted by user and item.

        A user or an item without pairs has zeros.
        """
        had, negatives = Had.of(user, item, shape[0]), _likelihood(item, shape[1], self.popularity)
        first = jax.random.split(jax.random.key(self.seed), 3)
        scale = 0.1 / math.sqrt(self.factors)
        factors = Factors(
            scale * jax.random.normal(first[0], (shape[0], self.factors)) * _occurs(user, shape[0]),
            scale * jax.random.normal(first[1], (shape[1], self.factors)) * _occurs(item, shape[1]),
            jnp.zeros(shape[1]),
        )
        whose = jnp.asarray(user, jnp.int32)
        for epoch in counted("BPR", self.epochs, "epochs"):
            factors, loss = _epoch(
                factors,
                jax.random.fold_in(first[2], epoch),
                whose,
                had.start,
                had.item,
                negatives,
                jnp.float32(self.learning_rate),
                jnp.float32(self.regularisation),
                batch=self.batch,
                draws=self.draws,
                rounds=had.rounds,
            )
            jax.block_until_ready(loss)
        return factors


class Factors(NamedTuple):
    """user: (U, K). item: (V, K). bias: (V,), of items. float32."""

    user: Array
    item: Array
    bias: Array


class Had(NamedTuple):
    """The items that each user had: user u's are item[start_u : start_(u+1)], ascending.

    start: int32 (U+1,). item: int32 (P,). rounds: of a binary search among the most that a user has.
    """

    start: Array
    item: Array
    rounds: int

    @classmethod
    def of(cls, user: np.ndarray, item: np.ndarray, users: int) -> Had:
        """From pairs, each once, sorted by user and item."""
        size = np.bincount(user, minlength=users)
        start = np.concatenate([[0], np.cumsum(size)]).astype(np.int32)
        return cls(start, item.astype(np.int32), int(size.max()).bit_length())


def contains(
    start: jax.Array, stop: jax.Array, items: jax.Array, wanted: jax.Array, rounds: int
) -> jax.Array:
    """Whether wanted is among the ascending items[start:stop], for each of many: bool, of their shape.

    rounds: at least the number of bits of the longest run.
    """
    low, high = start, stop
    for _ in range(rounds):
        middle = (low + high) // 2
        after = (low < high) & (items[middle] < wanted)
        low, high = jnp.where(after, middle + 1, low), jnp.where(after, high, jnp.minimum(middle, high))
    return (low < stop) & (items[jnp.minimum(low, len(items) - 1)] == wanted)


def pull(own: jax.Array, weight: jax.Array) -> jax.Array:
    """-d/ds of -log sigmoid(s), times the weight of each pair."""
    return weight * jax.nn.sigmoid(-own)


def step(
    factors: Factors,
    user: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    weight: jax.Array,
    rate: jax.Array | float,
    regularisation: jax.Array | float,
) -> tuple[Factors, jax.Array]:
    """Factors after one step along the summed gradients of B triples of ids, and sum -log sigmoid before it.

    weight: float32 (B,), 0 for a triple that does not count.
    """
    x, y, b = factors
    xu, yi, yj = x[user], y[positive], y[negative]
    apart = jnp.einsum("bk,bk->b", xu, yi - yj) + b[positive] - b[negative]
    z = pull(apart, weight)
    fade = regularisation * weight
    column, shrink = z[:, None], fade[:, None]
    x = x.at[user].add(rate * (column * (yi - yj) - shrink * xu))
    y = y.at[positive].add(rate * (column * xu - shrink * yi))
    y = y.at[negative].add(rate * (-column * xu - shrink * yj))
    moved = b.at[positive].add(rate * (z - fade * b[positive]))
    moved = moved.at[negative].add(rate * (-z - fade * b[negative]))
    return Factors(x, y, moved), jnp.sum(weight * jax.nn.softplus(-apart))


@partial(jax.jit, donate_argnums=0, static_argnames=("batch", "draws", "rounds"))
def _epoch(
    factors: Factors,
    key: jax.Array,
    user: jax.Array,
    start: jax.Array,
    item: jax.Array,
    negatives: jax.Array,
    rate: jax.Array,
    regularisation: jax.Array,
    *,
    batch: int,
    draws: int,
    rounds: int,
) -> tuple[Factors, jax.Array]:
    """Steps over as many pairs as there are, drawn with replacement; and the mean of -log sigmoid."""
    pairs = len(item)

    def move(factors: Factors, key: jax.Array) -> tuple[Factors, tuple[jax.Array, jax.Array]]:
        which, other = jax.random.split(key)
        at = jax.random.randint(which, (batch,), 0, pairs)
        u = user[at]
        drawn = _draw(other, (batch, draws), negatives)
        begin, end = (jnp.broadcast_to(start[k, None], drawn.shape) for k in (u, u + 1))
        j, weight = _first_without(drawn, contains(begin, end, item, drawn, rounds))
        factors, loss = step(factors, u, item[at], j, weight, rate, regularisation)
        return factors, (loss, jnp.sum(weight))

    factors, (loss, weight) = jax.lax.scan(move, factors, jax.random.split(key, -(-pairs // batch)))
    return factors, jnp.sum(loss) / jnp.maximum(jnp.sum(weight), 1.0)


@partial(jax.jit, static_argnames=("passes", "draws", "rounds"))
def _fold_in(
    x: jax.Array,
    user: jax.Array,
    chunk: Chunk,
    *,
    factors: Factors,
    start: jax.Array,
    item: jax.Array,
    negatives: jax.Array,
    key: jax.Array,
    rate: jax.Array,
    regularisation: jax.Array,
    passes: int,
    draws: int,
    rounds: int,
) -> jax.Array:
    """User factors (N, K) that have learnt from items (N, L) too; those of items stay as they are.

    The negatives are drawn for all rows together, so that nothing depends on who else is asked for.
    """
    n, length = chunk.item.shape
    there = (chunk.times > 0).astype(jnp.float32)
    # Ids that fill up a row are 0 and come last: as the largest number they keep the row ascending.
    own = jnp.where(there > 0, chunk.item, jnp.iinfo(jnp.int32).max).reshape(-1)
    first = jnp.arange(n)[:, None] * length

    def move(x: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        at, key = inputs
        positive = jax.lax.dynamic_slice_in_dim(chunk.item, at, WIDTH, 1)
        weight = jax.lax.dynamic_slice_in_dim(there, at, WIDTH, 1)
        drawn = jnp.tile(_draw(key, (1, WIDTH, draws), negatives), (n, 1, 1))
        flat = drawn.reshape(n, -1)
        begin, end = (jnp.broadcast_to(start[k, None], flat.shape) for k in (user, user + 1))
        trained = contains(begin, end, item, flat, rounds)
        begin = jnp.broadcast_to(first, flat.shape)
        new = contains(begin, begin + length, own, flat, length.bit_length())
        j, free = _first_without(drawn, (trained | new).reshape(drawn.shape))
        weight = weight * free
        d = factors.item[positive] - factors.item[j]
        apart = jnp.einsum("nk,nlk->nl", x, d) + factors.bias[positive] - factors.bias[j]
        z = pull(apart, weight)
        fade = regularisation * jnp.sum(weight, axis=1, keepdims=True)
        return x + rate * (jnp.einsum("nl,nlk->nk", z, d) - fade * x), None

    at = jnp.tile(jnp.arange(0, length, WIDTH), passes)
    return jax.lax.scan(move, x, (at, jax.random.split(key, len(at))))[0]


def _likelihood(item: np.ndarray, items: int, power: float) -> np.ndarray:
    """The cumulative likelihood of each item as a negative, float32 (V,), 0 for one that nobody had."""
    count = np.bincount(item, minlength=items)
    total = np.cumsum(np.where(count > 0, count.astype(np.float64) ** power, 0.0))
    return (total / total[-1]).astype(np.float32)


def _draw(key: jax.Array, shape: tuple[int, ...], cumulative: jax.Array) -> jax.Array:
    """Items of a cumulative likelihood, int32."""
    point = jax.random.uniform(key, shape)  # below 1, which the last entry is
    return jnp.searchsorted(cumulative, point, side="right").astype(jnp.int32)


def _first_without(drawn: jax.Array, had: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of the ids drawn (..., N) the first that the user had not, and 1; 0 where there is none."""
    at = jnp.argmin(had, axis=-1, keepdims=True)
    j, taken = (jnp.take_along_axis(values, at, axis=-1)[..., 0] for values in (drawn, had))
    return j, jnp.where(taken, 0.0, 1.0)


def _occurs(ids: np.ndarray, size: int) -> np.ndarray:
    """1.0 for each id that occurs, else 0.0: (size, 1)."""
    return (np.bincount(ids, minlength=size) > 0)[:, None].astype(np.float32)
