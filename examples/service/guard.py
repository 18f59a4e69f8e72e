"""Around every call: it is counted and timed, and its answer says what a browser may do with it."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.service.metrics import Metrics

ROUTES = ("/", "/events", "/recommendations", "/health", "/metrics", "/model", "/items", "/users")
METHODS = ("GET", "HEAD", "POST")
LEFT = 499  # counted where the caller has left before an answer began, as nginx does
HEADERS = {
    # The page needs nothing from elsewhere, and nobody else may show it or send calls for it.
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Guard:
    """Middleware. What it counts by is from short lists, so that callers cannot make the counts grow."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), LEFT

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                have = {name for name, _ in message["headers"]}
                new = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(one for one in new if one[0] not in have)]
            await send(message)

        route = _route(scope["path"])
        self._metrics.in_flight += 1
        try:
            await self._app(scope, receive, watched)
        except BaseException:
            status = 500 if status == LEFT else status
            raise
        finally:
            self._metrics.in_flight -= 1
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.count(route, method, status, time.perf_counter() - begin)


def _route(path: str) -> str:
    if path in ROUTES:
        return path
    if path.startswith("/users/"):
        return "/users/ID"
    return "/page" if path.startswith("/page/") else "other"
