"""Missing values and missing modalities: what training hides, so that serving can do without."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from stjax.events import MISSING, UNSEEN, Events
from stjax.ops import hashing


class Hide(nn.Module):
    """In training, hides a share of the values of events, each on its own: what is left must answer.

    An item becomes UNSEEN, a categorical value UNSEEN or MISSING, numbers, vectors and places unknown, a
    user (of the whole sequence) UNSEEN. Times stay. rate: share hidden, 0 <= rate < 1.
    """

    rate: float

    @nn.compact
    def __call__(self, events: Events, train: bool) -> Events:
        check_rate("hide", self.rate)
        if not train or self.rate == 0:
            return events
        batch, shape = events.item.shape[0], events.item.shape

        def hidden(shape: tuple[int, ...]) -> jax.Array:
            return jax.random.bernoulli(self.make_rng("dropout"), self.rate, shape)

        def other(x: jax.Array) -> jax.Array:
            kind = jnp.where(jax.random.bernoulli(self.make_rng("dropout"), 0.5, x.shape), UNSEEN, MISSING)
            return jnp.where(hidden(x.shape), kind.astype(x.dtype), x)

        def unknown(x: jax.Array) -> jax.Array:
            gone = hidden(shape).reshape(shape + (1,) * (x.ndim - len(shape)))
            return jnp.where(gone, jnp.nan, x)

        item = jnp.where(hidden(shape), UNSEEN, events.item)
        return events.replace(
            item=jnp.where(events.valid, item, events.item),
            user=jnp.where(hidden((batch, 1)), UNSEEN, events.user),
            place=unknown(events.place),
            categorical={name: other(x) for name, x in events.categorical.items()},
            numeric={name: unknown(x) for name, x in events.numeric.items()},
            vector={name: unknown(x) for name, x in events.vector.items()},
        )


class HideIds(nn.Module):
    """Item dropout: in training, some items of a sequence are anonymous wherever they occur in it.

    What is read of them is what they would be without a row of their own, as an item that training has not
    seen: their fields and place must answer (as DropoutNet does for users and items; Volkovs et al., NeurIPS
    2017), so that the model leans less on what it has learnt of single items.
    rate: share of the items of each sequence, 0 <= rate < 1.
    """

    rate: float

    @nn.compact
    def __call__(self, item: jax.Array, own: jax.Array, anonymous: jax.Array) -> jax.Array:
        """item: (B, L) ids. own, anonymous: (B, L, D), the vectors with and without rows of their own."""
        # By a hash of the id, so that all events of an item in a sequence share its fate.
        words = jax.random.bits(self.make_rng("dropout"), (2, item.shape[0], 1), jnp.uint32)
        drawn = hashing.mix(item.astype(jnp.uint32), *words)
        hidden = drawn < np.uint32(int(self.rate * 2**32))  # exact, and below 2^32
        return jnp.where(hidden[..., None], anonymous, own)


class StandIns(nn.Module):
    """Modality dropout (Neverova et al., ModDrop, 2016): a learned vector for each modality left out.

    rate: share of (sequence, modality) pairs left out in training; the item is never left out as a whole.
    """

    rate: float

    @nn.compact
    def __call__(
        self, parts: Mapping[str, jax.Array], absent: Mapping[str, int], train: bool
    ) -> dict[str, jax.Array]:
        """parts: {name: (..., D_name)}. absent: widths of the modalities that are not in parts at all."""
        check_rate("modality_dropout", self.rate)
        lead = parts["item"].shape[:-1]
        out = dict(parts)
        for name in sorted([*parts, *absent]):
            if name == "item":
                continue
            width = absent[name] if name in absent else parts[name].shape[-1]
            if self.rate == 0:
                if name in absent:
                    out[name] = jnp.zeros((*lead, width))
                continue
            vector = self.param(f"no_{name}", nn.initializers.normal(0.02), (width,))
            if name in absent:
                out[name] = jnp.broadcast_to(vector, (*lead, width))
            elif train:
                gone = jax.random.bernoulli(self.make_rng("dropout"), self.rate, lead[:1])
                out[name] = jnp.where(gone.reshape(-1, *(1,) * len(lead)), vector, parts[name])
        return out


def check_rate(name: str, rate: float) -> None:
    """Raises ValueError for a share that is not at least 0 and below 1."""
    if not 0 <= rate < 1:
        raise ValueError(f"{name}={rate} must be at least 0 and below 1")
