"""Benchmarks. They keep freed memory as `train.py` does: before other modules start threads."""

from stjax.memory import keep_freed_memory

KEEPS_FREED_MEMORY = keep_freed_memory()
