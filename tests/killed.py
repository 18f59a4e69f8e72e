"""`python -m tests.killed MOMENT STEP ARGUMENTS`: train.py in a process that kills itself, for test_resume.

MOMENT `before-save`: when step STEP is to be saved, its metrics being written already.
MOMENT `half-saved`: when the arrays of step STEP are on disk but the checkpoint is not complete.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import train
from stjax.training.checkpoint import Checkpoints


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(moment: str, last: int, arguments: list[str]) -> int:
    save, rename = Checkpoints.save, os.rename

    def dying_save(
        self: Checkpoints, step: int, state: Any, record: dict[str, Any], best: int | None
    ) -> None:
        if step == last:
            self.wait()
            die()
        save(self, step, state, record, best)

    def dying_rename(source: Any, target: Any, **rest: Any) -> None:
        # Orbax completes the parts of a checkpoint one by one, and then the whole, by renaming.
        if f"{last}.orbax-checkpoint-tmp" in str(target) and str(target).endswith("state"):
            die()
        rename(source, target, **rest)

    if moment == "before-save":
        Checkpoints.save = dying_save
    elif moment == "half-saved":
        os.rename = dying_rename
    else:
        raise SystemExit(f"no moment {moment!r}")
    return train.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
