"""How processes that tests start compile: as little as the tests' own process does, see conftest.py."""

from __future__ import annotations

import os

import jax


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    """Of a process with so many virtual devices. Flags of the user's own hold, as in the tests' process."""
    flags = []
    if devices > 1:
        flags.append(f"--xla_force_host_platform_device_count={devices}")
    if "XLA_FLAGS" in os.environ:
        flags.append(os.environ["XLA_FLAGS"])
    elif "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ and jax.__version_info__[:2] == (0, 10):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    own = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | os.environ
    return own | {"XLA_FLAGS": " ".join(flags)} | more
