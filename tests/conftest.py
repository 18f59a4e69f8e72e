"""Fixtures that several test files share."""

from __future__ import annotations

import os

import jax
import pytest
from hypothesis import settings

settings.register_profile("stjax", deadline=None, derandomize=True)
settings.load_profile("stjax")

# Tests compile for seconds what then runs for milliseconds: let LLVM do less, and let loops be emitted in the
# older way, which takes a third of the time. Processes that tests start are told so by `tests.quick`. All is
# compiled as usual with JAX_DISABLE_MOST_OPTIMIZATIONS=0.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    jax.config.update("jax_disable_most_optimizations", True)
    # A flag that XLA does not know ends the process: only where it is known, and none of the user's own.
    if jax.__version_info__[:2] == (0, 10) and "XLA_FLAGS" not in os.environ:
        os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false"
        jax.devices()  # reads it, once for all
        del os.environ["XLA_FLAGS"]


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What takes long to compile is compiled once for all tests, in whichever process they run."""
    folder = tmp_path_factory.getbasetemp()  # of a worker within that of the session
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture
def strict_jax():
    """No silent promotion of dtypes and no random key used twice while the test runs."""
    with jax.numpy_dtype_promotion("strict"), jax.debug_key_reuse(True):
        yield
