"""`python -m examples.service RUN`: a finished run folder of train.py, or an export of it, as a service."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from examples.service.app import make_app
from examples.service.bodies import Limits
from examples.service.city import City
from examples.service.server import serve
from stjax.command import exit_code
from stjax.memory import keep_freed_memory
from stjax.serving import Engine
from stjax.serving.load_export import load_trained
from stjax.serving.settings import Settings
from stjax.training.setup import use_compilation_cache


@dataclass(frozen=True)
class Options:
    """Serve a finished run folder of train.py, or an export of it: events, recommendations, health, metrics
    and a page."""

    run: tyro.conf.Positional[Path]
    """Run folder or export."""
    state: Path | None = None
    """Folder that keeps accepted events and states; without it they end with the process."""
    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = 8000
    """0 takes a free one."""
    capacity: int = 1024
    """Users whose states are on the device."""
    users: int = 100_000
    """Users in all."""
    lateness: int = 0
    """Seconds by which an event may come after a later one of its user."""
    history: bool = True
    """Whether users begin with their events of the run's log; an export has none."""
    kind: str | None = None
    """Categorical item field that colours the map; by default the first one."""
    concurrent: int = 64
    """Calls that are worked on at once; more are answered with 503."""
    grace: float = 30.0
    """Seconds that calls in flight may take when the service is to end."""


def main(arguments: Sequence[str]) -> int:
    """The exit code, see `stjax.command`; 0 also where a signal has ended the service."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    logging.getLogger("stjax.service").setLevel(logging.INFO)
    options = tyro.cli(Options, prog="python -m examples.service", args=list(arguments))
    keep_freed_memory()
    use_compilation_cache()
    return exit_code(lambda: _serve(options))


def _serve(options: Options) -> None:
    log = logging.getLogger("stjax.service")
    log.info("loading %s", options.run)
    trained = load_trained(options.run)
    city = City.of(trained, options.history, options.kind)
    settings = Settings(options.capacity, options.users, options.lateness)
    engine = Engine.load(trained, settings=settings, folder=options.state, history=options.history)
    log.info("%s: %d items, %d users", engine.version, len(city.ids), len(engine.users()))
    limits = Limits(concurrent=options.concurrent)
    app = make_app(engine, city, limits=limits, state=options.state)
    serve(app, options.host, options.port, options.grace)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
