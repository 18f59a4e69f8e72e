"""The engine as an ASGI application: events in, recommendations out, health, metrics, and a page.

| call | answer |
|---|---|
| `POST /events` | how many were accepted, and why the others were not |
| `POST /recommendations` | the best items of each request |
| `GET /health` | 200 when calls are answered, 503 while programs are compiled or the disk takes no more |
| `GET /metrics` | numbers for Prometheus |
| `GET /model`, `/items`, `/users`, `/users/ID` | what the page at `/` shows |

Half a minute after an event that the disk did not take, `/health` is 200 again until the next one: who sends
calls only to what is healthy would else never find out that there is space.

What is wrong with a call is told as `{"error": ..., "field": ...}` with a status of 4xx, and changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from examples.service import bodies
from examples.service.bodies import BadBody, Limits
from examples.service.city import City
from examples.service.guard import Guard
from examples.service.metrics import CONTENT_TYPE, Metrics
from stjax.errors import UserError
from stjax.serving import Engine
from stjax.serving.codec import BadEvent
from stjax.serving.journal import JournalError

PAGE = Path(__file__).parent / "page"
RETRY = 30.0  # seconds after which a full disk is no reason any more to keep events away
log = logging.getLogger("stjax.service")


def make_app(
    engine: Engine, city: City, *, limits: Limits | None = None, state: Path | None = None
) -> Starlette:
    """The application. It compiles the engine's programs when it starts, and saves and closes the engine when
    it ends: after the last call was answered, where the server waits for that.

    state: the engine's folder, where recent events are kept for the page of the next start.
    """
    return Service(engine, city, limits or Limits(), state).app()


class Service:
    """One engine and what the application knows around it. The engine's calls run in threads: it makes one
    call of those that wait for it at the same time."""

    def __init__(self, engine: Engine, city: City, limits: Limits, state: Path | None) -> None:
        self.engine, self.city, self.limits = engine, city, limits
        self.metrics = Metrics()
        self._file = None if state is None else state / "recent.jsonl"
        self._ready, self._failing = False, ""
        self._full_since: float | None = None  # when the disk took no more, where that is why it fails
        self._items = json.dumps(city.items()).encode()
        self._threads = CapacityLimiter(limits.concurrent)

    def app(self) -> Starlette:
        """The routes, within what counts them and guards the page."""
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/events", self.events, methods=["POST"]),
                Route("/recommendations", self.recommendations, methods=["POST"]),
                Route("/health", self.health),
                Route("/metrics", self.prometheus),
                Route("/model", self.model),
                Route("/items", self.items),
                Route("/users", self.users),
                Route("/users/{user:path}", self.user),
                Mount("/page", StaticFiles(directory=PAGE)),
            ],
            middleware=[Middleware(Guard, self.metrics), Middleware(GZipMiddleware, minimum_size=2000)],
            exception_handlers={
                BadBody: _bad_body,
                BadEvent: _bad_event,
                UserError: self._unusable,
                HTTPException: _http_error,
                Exception: _failure,
            },
            lifespan=self._life,
        )

    async def page(self, request: Request) -> Response:
        """The map."""
        return FileResponse(PAGE / "index.html")

    async def events(self, request: Request) -> Response:
        """Read events. Where all of them were refused the status is 422."""
        body = await self._body(request)
        events = bodies.parse_events(body, self.limits)
        observed = await self._call(self.engine.observe, events)
        self._failing = ""
        not_new = {*observed.refused, *observed.repeated}
        self.city.recent.add(event for i, event in enumerate(events) if i not in not_new)
        refused = {str(i): cause for i, cause in sorted(observed.refused.items())}
        answer: dict[str, Any] = {
            "accepted": observed.accepted,
            "repeated": len(observed.repeated),
            "refused": refused,
        }
        if observed.accepted or observed.repeated:
            return JSONResponse(answer)
        i, cause = next(iter(refused.items()))
        return JSONResponse({"error": cause, "field": f"events[{i}]", **answer}, 422)

    async def recommendations(self, request: Request) -> Response:
        """Answer requests."""
        body = await self._body(request)
        requests, k = bodies.parse_requests(body, self.limits)
        found = await self._call(self.engine.recommend, requests, k)
        answers = [
            {
                "user": one.user,
                "items": [
                    {"item": item, "score": round(score, 5)}
                    for item, score in zip(one.items, one.scores.tolist(), strict=True)
                ],
            }
            for one in found
        ]
        return JSONResponse({"version": self.engine.version, "answers": answers})

    async def health(self, request: Request) -> Response:
        """Whether calls are answered."""
        tried = self._full_since is not None and time.monotonic() - self._full_since >= RETRY
        if self._failing and not tried:
            return JSONResponse({"status": "failing", "error": self._failing}, 503)
        if not self._ready:
            return JSONResponse({"status": "compiling"}, 503, {"Retry-After": "5"})
        return JSONResponse({"status": "ready"})

    async def prometheus(self, request: Request) -> Response:
        """All numbers."""
        status = await to_thread.run_sync(self.engine.status)
        return Response(self.metrics.text(status, self._ready), media_type=CONTENT_TYPE)

    async def model(self, request: Request) -> Response:
        """What answers, what of a request it reads, and what may be asked."""
        answer = {
            "version": self.engine.version,
            "reads": list(self.city.reads),
            "items": len(self.city.ids),
            "users": len(self.engine.users()),
            "limits": {name: getattr(self.limits, name) for name in ("events", "requests", "k")},
        }
        return JSONResponse(answer)

    async def items(self, request: Request) -> Response:
        """Places and kinds of all items, as columns."""
        return Response(self._items, media_type="application/json")

    async def users(self, request: Request) -> Response:
        """Users with events whose ids begin with `prefix`, at most `limit`."""
        text, prefix = request.query_params.get("limit", "100"), request.query_params.get("prefix", "")
        if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= 1000:
            raise BadBody(422, "limit", f"{text[:20]!r} must be from 1 to 1000")
        everybody = self.engine.users()
        found = [user for user in everybody if user.startswith(prefix)]
        return JSONResponse({"users": found[: int(text)], "found": len(found), "of": len(everybody)})

    async def user(self, request: Request) -> Response:
        """A user's recent events, oldest first. None of a new one: every id may be a user's."""
        user = request.path_params["user"]
        kept = [
            {"item": e.item, "time": e.time, "utc_offset": e.utc_offset, "place": e.place}
            for e in self.city.recent.of(user)
        ]
        return JSONResponse({"user": user, "events": kept})

    async def _body(self, request: Request) -> bytes:
        """The body of a call that is let in. Raises BadBody where it is too large or too slow."""
        if not self._ready:
            raise HTTPException(503, "programs are being compiled; see /health", {"Retry-After": "5"})
        if self.metrics.in_flight > self.limits.concurrent:
            raise HTTPException(503, "too many calls at once", {"Retry-After": "1"})
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # what other sites' forms cannot send
            raise BadBody(415, "Content-Type", f"{kind[:40]!r} is here, application/json is needed")
        most, parts, size = self.limits.body, [], 0
        try:
            with anyio.fail_after(self.limits.seconds):
                async for part in request.stream():
                    parts.append(part)
                    if (size := size + len(part)) > most:
                        raise BadBody(413, "", f"the body has more than the {most:,} bytes that are read")
        except TimeoutError:
            raise BadBody(408, "", f"the body did not come within {self.limits.seconds:g} seconds") from None
        except ClientDisconnect:
            raise BadBody(400, "", "the body ended early") from None
        return b"".join(parts)

    async def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """A call of the engine, in a thread. It runs to its end, whatever becomes of the caller."""
        return await to_thread.run_sync(method, *arguments, limiter=self._threads)

    async def _unusable(self, request: Request, error: Exception) -> Response:
        """The engine takes no more: a full disk, or an earlier failure."""
        if not self._failing:
            log.error("the engine fails: %s", error)
        self._failing = str(error)
        self._full_since = time.monotonic() if isinstance(error, JournalError) else None
        return JSONResponse({"error": str(error), "field": None}, 503)

    @contextlib.asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        if self._file is not None:
            self.city.recent.keep(self._file)
        warming = asyncio.create_task(self._warm_up())
        try:
            yield
        finally:
            await warming
            await to_thread.run_sync(self._end)

    async def _warm_up(self) -> None:
        settings, memory = self.engine.settings, self.engine.memory()
        log.info(
            "a user's state: %d bytes; capacity: %d users on the device, %.1f MiB; all: %d users, %.1f MiB on"
            " the host at most; compiling",
            memory["user"],
            settings.capacity,
            memory["device"] / 2**20,
            settings.users,
            memory["host"] / 2**20,
        )
        try:
            seconds = await to_thread.run_sync(self.engine.warm_up)
        except Exception as error:
            log.exception("the programs cannot be compiled")
            self._failing = f"the programs cannot be compiled: {type(error).__name__}"
            return
        self._ready = True
        log.info("compiled in %.1f s; ready", seconds)

    def _end(self) -> None:
        try:
            self.engine.save()
        finally:
            self.city.recent.close()
            self.engine.close()
        log.info("saved; %d events were ever accepted", self.engine.status()["events"])


Handler = Callable[[Request, Exception], Awaitable[Response]]


async def _bad_body(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadBody)
    return JSONResponse({"error": str(error), "field": error.field or None}, error.status)


async def _bad_event(request: Request, error: Exception) -> Response:
    """The engine's own message begins with the field, or says `context field`."""
    text = str(error)
    word = "context" if "context field" in text else re.split(r"\W", text, maxsplit=1)[0]
    return JSONResponse({"error": text, "field": word}, 422)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail, "field": None}, error.status_code, error.headers)


async def _failure(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the service failed; its log says why", "field": None}, 500)
