"""What tests of the example service share: bodies, clients, and the service in a process of its own."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from examples.service.app import make_app
from stjax.serving import Engine
from tests.counting_service import city
from tests.quick import environment

T = 1_000_000


def event(user: str = "u1", item: str = "i1", time: Any = T, **more: Any) -> dict[str, Any]:
    return {"user": user, "item": item, "time": time, **more}


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def served(engine: Engine, **options: Any) -> TestClient:
    return TestClient(make_app(engine, city(), **options), raise_server_exceptions=False)


def start(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """The service in a process of its own, and its port."""
    command = [sys.executable, "-m", "tests.counting_service", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    address = process.stdout.readline()
    assert address.startswith("http://127.0.0.1:"), address
    return process, int(address.rsplit(":")[-1])


def call(port: int, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        content = None if body is None else json.dumps(body)
        method = "GET" if body is None else "POST"
        connection.request(method, path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()
