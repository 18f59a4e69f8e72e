"""A headless Chromium, driven by its DevTools protocol over two pipes; nothing but the standard library."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import select
import shutil
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")


def chromium() -> str | None:
    """Its path: $STJAX_CHROMIUM, or what there is on PATH."""
    return os.environ.get("STJAX_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page. errors: what its console has told, and the answers of 400 and above that it got."""

    def __init__(self, binary: str, folder: Path, width: int = 1200, height: int = 790) -> None:
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        # It reads at 3 and writes at 4: what is there must not lie in the way.
        high = [fcntl.fcntl(own, fcntl.F_DUPFD_CLOEXEC, 10) for own in (theirs_in, theirs_out)]
        command = [binary, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={folder}"]
        command += ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        self._pid = os.posix_spawn(
            binary,
            [*command, f"--window-size={width},{height}", "about:blank"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, high[0], 3),
                (os.POSIX_SPAWN_DUP2, high[1], 4),
            ],
        )
        for own in (theirs_in, theirs_out, *high):
            os.close(own)
        self._numbers, self._unread, self._session = itertools.count(1), b"", None
        self.errors: list[str] = []
        pages = [t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self._session = self("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)[
            "sessionId"
        ]
        for part in ("Page", "Runtime", "Log", "Network"):
            self(f"{part}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self("Emulation.setDeviceMetricsOverride", **size)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: Any) -> None:
        """Reaching the end of its pipe, it ends."""
        os.close(self._to)
        os.waitpid(self._pid, 0)
        os.close(self._from)

    def __call__(self, method: str, **parameters: Any) -> Any:
        """A call of the protocol: https://chromedevtools.github.io/devtools-protocol."""
        call = {"id": next(self._numbers), "method": method, "params": parameters}
        if self._session:
            call["sessionId"] = self._session
        os.write(self._to, json.dumps(call).encode() + b"\0")
        while (said := self._message()).get("id") != call["id"]:
            self._listen(said.get("method"), said.get("params", {}))
        assert "error" not in said, said
        return said["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            assert select.select([self._from], [], [], 60)[0], "the browser says nothing"
            some = os.read(self._from, 1 << 16)
            assert some, "the browser has ended"
            self._unread += some
        one, _, self._unread = self._unread.partition(b"\0")
        return json.loads(one)

    def _listen(self, method: str | None, about: dict[str, Any]) -> None:
        if method == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(about["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(about["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning"):
            self.errors.append(json.dumps(about["args"]))
        elif method == "Network.responseReceived" and about["response"]["status"] >= 400:
            self.errors.append(f"{about['response']['status']} {about['response']['url']}")

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        done = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, expression: str, seconds: float = 30) -> Any:
        """Its value, once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.js(expression)):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)
        return value

    def click(self, x: float, y: float) -> None:
        """With the pointer, in pixels from the upper left."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
