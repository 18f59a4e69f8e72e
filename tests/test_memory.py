"""Freed memory stays with the process: page faults of the same block, allocated again and again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stjax.memory import keep_freed_memory

BLOCK, TIMES = 72 << 20, 7  # more than an arena of glibc holds
# By the C library itself: NumPy asks for huge pages, which hide faults.
PROGRAM = f"""
import ctypes, resource, threading
from stjax.memory import keep_freed_memory
if {{keep}}: assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def use():
    block = libc.malloc({BLOCK})
    libc.memset(block, 1, {BLOCK})
    libc.free(block)
def run(times):  # XLA allocates in threads of its own
    thread = threading.Thread(target=lambda: [use() for _ in range(times)])
    thread.start()
    thread.join()
run(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
run({TIMES})
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is of glibc")
def test_a_block_that_is_freed_comes_back_without_page_faults() -> None:
    given_back, kept = faults(keep=False), faults(keep=True)
    assert kept < given_back / 10


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
