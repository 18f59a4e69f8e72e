"""Strict JAX: `pytestmark = strict` allows no silent promotion of dtypes, no key used twice, no warning."""

from __future__ import annotations

import pytest

strict = [
    pytest.mark.usefixtures("strict_jax"),
    pytest.mark.filterwarnings("error"),
]
