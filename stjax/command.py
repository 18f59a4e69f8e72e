"""How a command ends: its exit code, and one line of what the user can mend."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from stjax.errors import UserError


def exit_code(
    work: Callable[[], object],
    interrupted: str = "interrupted",
    mendable: tuple[type[Exception], ...] = (UserError,),
) -> int:
    """Do the work. 0 done; 2 for what the user can mend, told in one line on stderr; 130 interrupted; 141
    where the reader of the output, such as `head`, has gone.

    interrupted: what is told then. mendable: the errors that the user can mend.
    """
    try:
        work()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at its end
        return 128 + signal.SIGPIPE
    except mendable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 128 + signal.SIGINT
    return 0
