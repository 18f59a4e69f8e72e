"""Uvicorn around an application, until a signal ends it."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from typing import Any

import uvicorn
from starlette.applications import Starlette

from stjax.errors import UserError


def serve(app: Starlette, host: str = "127.0.0.1", port: int = 8000, grace: float = 30.0) -> None:
    """Serve until SIGTERM or SIGINT: then no call is taken any more, those in flight are answered, and the
    application ends. Prints the address. Raises UserError for one that cannot be had.

    port: 0 takes a free one. grace: seconds that calls in flight may take.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            own.bind((host, port))
            own.listen(256)  # who calls from now on waits for the application to start
        except (OSError, OverflowError) as error:
            raise UserError(f"{host}:{port} cannot be served at: {error}; choose --host or --port") from error
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=round(grace),
        )
        # The server, when it has ended, gives its signal to the process: that is not to be killed by it.
        signal.signal(signal.SIGTERM, _leave)
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        print(f"http://{shown}:{own.getsockname()[1]}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[own])


def _leave(number: int, frame: Any) -> None:
    sys.exit(0)
