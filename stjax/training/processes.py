"""Several processes that train together: joining them, and which of them speaks for all.

Every process runs the same program on its own devices and reads its own part of each batch. The first one,
the leader, writes the run folder and talks; checkpoints are written by all, so the run folder must lie where
all of them see it.
"""

from __future__ import annotations

import jax
from jax.experimental import multihost_utils

from stjax.errors import ConfigError


def join(coordinator: str | None, processes: int | None, process: int | None, detect: bool) -> bool:
    """Meet the other processes, before anything touches a device. Returns whether there are any.

    coordinator: HOST:PORT of the first process, which all can reach. processes: their number. process: which
    of them this is, from 0. detect: take what is not given from the environment, as JAX detects it (Slurm,
    Kubernetes, TPU pods, MPI).
    Raises ConfigError where something is missing, wrong, or not answered.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if all(value is None for value in given.values()) and not detect:
        return False
    missing = [name for name, value in given.items() if value is None]
    if missing and not detect:
        raise ConfigError(
            f"{', '.join(missing)} is missing: several processes need --coordinator HOST:PORT, --processes N"
            " and --process K, or --detect to take them from Slurm, Kubernetes, a TPU pod or MPI"
        )
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ConfigError(f"--process {process} must lie between 0 and {processes - 1}, below --processes")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ConfigError(f"--coordinator {coordinator!r} must be HOST:PORT, e.g. 10.0.0.1:12345")
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, RuntimeError, ImportError, OSError) as error:  # the last two of asking a TPU's host
        remedy = f"; give {', '.join(missing)}, which this environment may not tell" if missing else ""
        raise ConfigError(f"the processes did not meet: {error}{remedy}") from error
    return jax.process_count() > 1


def leave() -> None:
    """Wait for the others, then go: a leader that left first would take the coordinator with it."""
    meet("the end")
    jax.distributed.shutdown()


def meet(name: str) -> None:
    """Wait until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def is_leader() -> bool:
    """Whether this process writes and talks."""
    return jax.process_index() == 0
