"""Train, evaluate and report one experiment: `python train.py [CONFIG.py] [OPTIONS]`.

Without a config it runs configs/quickstart.py; `--help` lists the options, which are the fields of the
experiment. The same command goes on with a run that was killed, and shows one that is finished.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from pathlib import Path

QUICKSTART = Path(__file__).parent / "configs" / "quickstart.py"


def main(arguments: Sequence[str]) -> int:
    """The exit code, see `stjax.command`."""
    # Imports and traces make objects that live on; walking over them in search of dead ones took an eighth of
    # the time to the first step. This is before the first import that makes many.
    gc.set_threshold(1_000_000)
    from stjax.memory import keep_freed_memory

    keep_freed_memory()  # before modules are imported that start threads
    from rich.console import Console

    from stjax.command import exit_code
    from stjax.training import parse, run

    return exit_code(
        lambda: run(parse(arguments, default=QUICKSTART), Console(soft_wrap=True)),
        "interrupted; the same command goes on from the last checkpoint",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
