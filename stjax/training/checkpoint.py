"""Checkpoints: state, input position and history of a run, in one atomic save.

Orbax writes a step to a temporary folder and renames it, so a killed save leaves no step. One manager
keeps the latest step and the best one: a single save is both, and no kill can come between them.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from stjax.errors import CheckpointError


class LatestAndBest:
    """Orbax preservation policy: the latest step, and `best` where it is set."""

    best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether to keep each checkpoint; they come in the order of their steps."""
        latest = checkpoints[-1].step if checkpoints else None
        return [info.step in (latest, self.best) for info in checkpoints]


class Checkpoints:
    """The checkpoints of one run folder. Use as a context manager: leaving waits for the last save.

    record: plain data for JSON that belongs to the state: position of the input, validations so far, best.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self._policy = LatestAndBest()
        # Several processes make their managers together.
        self._empty = jax.process_count() == 1 and not (self.folder.is_dir() and any(self.folder.iterdir()))

    @functools.cached_property
    def _manager(self) -> Any:
        """Made for what is there, or for the first save: the first step need not wait for Orbax."""
        ocp, self._empty = _orbax(), False
        return ocp.CheckpointManager(
            self.folder,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "record": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy, cleanup_tmp_directories=True
            ),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.wait()
        if not self._empty:
            self._manager.close()

    @property
    def latest(self) -> int | None:
        """The last step that was saved completely."""
        return None if self._empty else self._manager.latest_step()

    def save(self, step: int, state: Any, record: dict[str, Any], best: int | None) -> None:
        """Begin to write a step (in the background), and say which one is best so far.

        Raises CheckpointError where this save, or the one before, cannot be written.
        """
        ocp = _orbax()
        with self._writing():
            self._manager.wait_until_finished()
            self._policy.best = best
            parts = {"state": ocp.args.StandardSave(state), "record": ocp.args.JsonSave(record)}
            self._manager.save(step, args=ocp.args.Composite(**parts))

    def wait(self) -> None:
        """Until the last save is complete. Raises CheckpointError where it cannot be written."""
        if self._empty:
            return
        with self._writing():
            self._manager.wait_until_finished()

    def record(self, step: int | None = None) -> dict[str, Any] | None:
        """The record of a step, by default the latest; None where nothing was saved."""
        step = self.latest if step is None else step
        if step is None:
            return None
        ocp = _orbax()
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        with self._reading(step):
            return self._manager.restore(step, args=args)["record"]

    def restore(self, step: int, target: Any) -> Any:
        """The state of a step, shaped and placed like `target` (arrays or ShapeDtypeStructs).

        Raises CheckpointError, naming the parameters, where the saved shapes are not those of the target.
        """
        ocp = _orbax()
        abstract = jax.tree.map(_abstract, target)
        self._compare(step, abstract)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        with self._reading(step):
            return self._manager.restore(step, args=args)["state"]

    def _compare(self, step: int, target: Any) -> None:
        with self._reading(step):
            saved = _shapes(self._manager.item_metadata(step)["state"])
        asked = _shapes(target)
        differing = [n for n in sorted({*saved, *asked}) if saved.get(n) != asked.get(n)]
        # The optimizer's moments repeat what the parameters say.
        differing = [n for n in differing if n.startswith("params/")] or differing
        lines = [
            f"  {name}: {saved.get(name, 'absent')} saved, {asked.get(name, 'absent')} in the model"
            for name in differing
        ]
        if lines:
            more = f"\n  and {len(lines) - 10} more" if len(lines) > 10 else ""
            raise CheckpointError(
                f"the checkpoint {self.folder / str(step)} is of another model:\n"
                + "\n".join(lines[:10])
                + f"{more}\nuse the config it was trained with, or another --workdir"
            )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if not _of_the_disk(error):
                raise
            raise CheckpointError(
                f"cannot write a checkpoint to {self.folder}: {_reason(error)}; {self.last_good()}"
            ) from error

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"cannot read the checkpoint {self.folder / str(step)}: {error}; delete that folder to"
                " go on from an earlier one, or the run folder to start again"
            ) from error

    def last_good(self) -> str:
        """Words that say from where the same command goes on."""
        ocp = _orbax()
        # From the disk, since the manager already counts a step whose save may have failed.
        steps = sorted(ocp.path.step.checkpoint_steps(self.folder)) if self.folder.exists() else []
        if not steps:
            return "no checkpoint was saved yet, the same command starts again"
        return f"the last good checkpoint is step {steps[-1]}, from which the same command goes on"


def _orbax() -> Any:
    """Orbax, imported where it is first used."""
    import orbax.checkpoint

    return orbax.checkpoint


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    # Without a sharding Orbax takes the saved one, which another machine may not have.
    sharding = getattr(x, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _shapes(tree: Any) -> dict[str, str]:
    """Path -> `float32(3, 5)` of every array; the names of dict keys and attributes are joined by '/'."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): (
            f"{x.dtype}{tuple(x.shape)}"
        )
        for path, x in leaves
    }


def _of_the_disk(error: BaseException) -> bool:
    """OSError, or the ValueError by which TensorStore reports one."""
    return isinstance(error, OSError) or "os_error_code" in str(error)


def _reason(error: BaseException) -> str:
    full = errno.ENOSPC
    if (isinstance(error, OSError) and error.errno == full) or f"os_error_code='{full}'" in str(error):
        return "no space left on the device; free some"
    return str(error)
