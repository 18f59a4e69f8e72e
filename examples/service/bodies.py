"""Bodies of calls: JSON from anybody in, events and requests out, or what is wrong with which field."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stjax.serving import Event, Request
from stjax.serving.codec import LONGEST_EVENT_ID

Check = Callable[[Any, str], Any]
LONGEST_TEXT = 256


@dataclass(frozen=True)
class Limits:
    """What a caller may ask for. body: bytes. events, requests: of one call. k: items of an answer. ids: of
    a list such as `deny`. seconds: for a body to come. concurrent: calls that are worked on at once."""

    body: int = 1 << 20
    events: int = 1000
    requests: int = 64
    k: int = 100
    ids: int = 10_000
    seconds: float = 10.0
    concurrent: int = 64


class BadBody(ValueError):
    """A body that cannot be used. status: of the answer. field: such as `events[3].time`, or "" for all."""

    def __init__(self, status: int, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.status, self.field = status, field


def parse_events(body: bytes, limits: Limits) -> list[Event]:
    """`{"events": [{"user": ..., "item": ..., "time": ...}, ...]}`. Raises BadBody."""
    call = _fields(_json(body), "", {"events": _listed("event", limits.events)}, ("events",))
    return [Event(**_fields(one, f"events[{i}]", EVENT, EVENT_NEEDS)) for i, one in enumerate(call["events"])]


def parse_requests(body: bytes, limits: Limits) -> tuple[list[Request], int]:
    """`{"requests": [{"user": ...}, ...], "k": 10}`: requests and k. Raises BadBody."""
    checks = {"requests": _listed("request", limits.requests), "k": _whole}
    call = _fields(_json(body), "", checks, ("requests",))
    k = call.get("k", 10)
    if not 1 <= k <= limits.k:
        raise BadBody(422, "k", f"{k} must be from 1 to {limits.k}")
    checks = request_checks(limits)
    return [
        Request(**_fields(one, f"requests[{i}]", checks, ("user",))) for i, one in enumerate(call["requests"])
    ], k


def _json(body: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number of JSON")

    try:
        return json.loads(body.decode(), parse_constant=refuse)
    except RecursionError:
        raise BadBody(400, "", "the body is nested too deeply") from None
    except ValueError as error:  # of the text's encoding too
        raise BadBody(400, "", f"the body is not JSON: {error}") from None


def _fields(value: Any, where: str, checks: Mapping[str, Check], needed: Sequence[str]) -> dict[str, Any]:
    """An object's fields, checked by name; null is as if not given."""
    if not isinstance(value, dict):
        raise BadBody(422, where, f"{_kind(value)} is here, an object is needed")
    prefix = f"{where}." if where else ""
    for name in value:
        if name not in checks:
            raise BadBody(
                422,
                f"{prefix}{ascii(name)[1:-1][:40]}",
                f"there is no such field; there are {', '.join(checks)}",
            )
    for name in needed:
        if value.get(name) is None:
            raise BadBody(422, f"{prefix}{name}", "it is missing")
    return {name: checks[name](own, prefix + name) for name, own in value.items() if own is not None}


def _listed(what: str, most: int) -> Check:
    def check(value: Any, field: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise BadBody(422, field, f"{_kind(value)} is here, a list of at least one {what} is needed")
        if len(value) > most:
            raise BadBody(413, field, f"{len(value):,} are more than the {most:,} of one call; send several")
        return value

    return check


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value:
        raise BadBody(422, field, f"{_kind(value)} is here, text that is not empty is needed")
    if len(value) > LONGEST_TEXT:
        raise BadBody(422, field, f"{len(value):,} characters are more than {LONGEST_TEXT}")
    if any("\ud800" <= sign <= "\udfff" for sign in value):  # halves of a pair, which no answer could write
        raise BadBody(422, field, "it holds half a character (a lone surrogate)")
    return value


def _event_id(value: Any, field: str) -> str:
    if len(_text(value, field).encode()) > LONGEST_EVENT_ID:
        raise BadBody(422, field, f"{len(value.encode())} bytes are more than {LONGEST_EVENT_ID}")
    return value


def _number(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadBody(422, field, f"{_kind(value)} is here, a number is needed")
    if not abs(value) < 1e30:  # what JSON can write and no field means, infinity among it
        raise BadBody(422, field, "the number is too large")
    return value


def _time(value: Any, field: str) -> float:
    number = _number(value, field)
    if abs(number) > 1e11:
        raise BadBody(422, field, f"{_short(value)} is no time in Unix seconds; are these milliseconds?")
    return number


def _whole(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadBody(422, field, f"{_kind(value)} is here, a whole number is needed")
    return int(_number(value, field))


def _offset(value: Any, field: str) -> int:
    if abs(seconds := _whole(value, field)) >= 86_400:
        raise BadBody(422, field, f"{_short(value)} is a day or more; give seconds, such as -18000")
    return seconds


def _flag(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise BadBody(422, field, f"{_kind(value)} is here, true or false is needed")
    return value


def _distance(value: Any, field: str) -> float:
    if not (number := _number(value, field)) > 0:
        raise BadBody(422, field, f"{_short(value)} must be kilometres above 0")
    return number


def _place(value: Any, field: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise BadBody(422, field, f"{_kind(value)} is here, [latitude, longitude] is needed")
    latitude, longitude = (_number(degrees, f"{field}[{i}]") for i, degrees in enumerate(value))
    if abs(latitude) > 90 or abs(longitude) > 180:
        raise BadBody(422, field, f"[{latitude}, {longitude}] is not on the globe; latitude comes first")
    return latitude, longitude


def _ids(most: int) -> Check:
    listed = _listed("id", most)
    return lambda value, field: [_text(own, f"{field}[{i}]") for i, own in enumerate(listed(value, field))]


def _where(most: int) -> Check:
    return lambda value, field: {
        _text(name, field): _ids(most)(own, f"{field}.{name}") for name, own in _object(value, field).items()
    }


def _context(value: Any, field: str) -> dict[str, Any]:
    return {_text(name, field): _value(own, f"{field}.{name}") for name, own in _object(value, field).items()}


def _value(value: Any, field: str) -> Any:
    """Text, a number or a list of numbers: which of them, the model's log decides."""
    if value is None or isinstance(value, str):
        return value and _text(value, field)
    if isinstance(value, list):
        return [_number(own, f"{field}[{i}]") for i, own in enumerate(value)]
    return _number(value, field)


def _texts(value: Any, field: str) -> dict[str, str]:
    return {_text(name, field): _text(own, f"{field}.{name}") for name, own in _object(value, field).items()}


def _object(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadBody(422, field, f"{_kind(value)} is here, an object is needed")
    return value


def _kind(value: Any) -> str:
    """What a caller would call it; never the whole of what may be long."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return _short(value)


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 10**30:
        return "a huge number"  # Python refuses to write the longest ones
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


EVENT_NEEDS = ("user", "item", "time")
EVENT: Mapping[str, Check] = {
    "user": _text,
    "item": _text,
    "time": _time,
    "utc_offset": _offset,
    "place": _place,
    "context": _context,
    "id": _event_id,
}


def request_checks(limits: Limits) -> Mapping[str, Check]:
    """The fields of a request."""
    return {
        "user": _text,
        "time": _time,
        "utc_offset": _offset,
        "place": _place,
        "context": _texts,
        "exclude_seen": _flag,
        "allow": _ids(limits.ids),
        "deny": _ids(limits.ids),
        "within_km": _distance,
        "where": _where(limits.ids),
    }
