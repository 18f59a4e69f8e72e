"""Fixtures that several test files share."""

from __future__ import annotations

import os

import jax
import pytest
from hypothesis import settings

settings.register_profile("stjax", deadline=None, derandomize=True)
settings.load_profile("stjax")

# Tests compile for seconds what then runs for milliseconds: let LLVM do less. Processes that tests start,
# train.py among them, are compiled as usual; so are the tests with JAX_DISABLE_MOST_OPTIMIZATIONS=0.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def strict_jax():
    """No silent promotion of dtypes and no random key used twice while the test runs."""
    with jax.numpy_dtype_promotion("strict"), jax.debug_key_reuse(True):
        yield
