"""The dtype of products and activations: a model sets it around its methods, layers read it as they trace."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp

Precision = Literal["float32", "bfloat16"]
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# JAX knows of it: a function that was compiled in one precision is compiled again in another.
_current = jax.make_user_context("float32")

Method = TypeVar("Method", bound=Callable[..., Any])


def in_precision(method: Method) -> Method:
    """A method of a module with a field `precision`, within which layers compute in that precision.

    Raises ValueError for a precision that does not exist.
    """

    @wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        check(self.precision)
        with _current(self.precision):
            return method(self, *args, **kwargs)

    return run  # pyright: ignore[reportReturnType]


def check(precision: str) -> None:
    """Raises ValueError for a precision that does not exist."""
    if precision not in DTYPES:
        raise ValueError(f"precision={precision!r} must be one of {', '.join(DTYPES)}")


def compute_dtype() -> Any:
    """The dtype of the model whose method is running; float32 outside of models."""
    return DTYPES[_current.value]


def compute(x: jax.Array) -> jax.Array:
    """x in that dtype."""
    return x.astype(compute_dtype())
