"""Output into a pipe whose reader, such as `head`, has gone."""

from __future__ import annotations

import os
import signal
import sys


def reader_left() -> int:
    """The exit code after a BrokenPipeError, as of a program that the signal had ended; nothing more is
    written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at its end
    return 128 + signal.SIGPIPE
