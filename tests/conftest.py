"""Fixtures that several test files share."""

from __future__ import annotations

import jax
import pytest
from hypothesis import settings

settings.register_profile("stjax", deadline=None, derandomize=True)
settings.load_profile("stjax")


@pytest.fixture
def strict_jax():
    """No silent promotion of dtypes and no random key used twice while the test runs."""
    with jax.numpy_dtype_promotion("strict"), jax.debug_key_reuse(True):
        yield
