"""After warm_up nothing is compiled any more: no caller waits for a program."""

from __future__ import annotations

import jax

from stjax.serving.programs import Programs
from stjax.serving.settings import Shapes
from tests.serving import parts, plain, request, start, stream


def sizes(programs: Programs) -> list[int]:
    """How many compiled forms each program has."""
    each = programs.observe, programs.recommend, programs.fetch, programs.put
    return [program._cache_size() for program in each]  # pyright: ignore[reportFunctionMemberAccess]


def test_no_call_compiles() -> None:
    model, params, *rest = parts(plain(known=("time",)))
    bound = jax.device_put(params, jax.devices()[0])  # as those of a checkpoint are
    engine = start((model, bound, *rest), capacity=3, shapes=Shapes((1, 3), (1, 4), (5,)))
    engine.warm_up()
    before = sizes(engine._core.programs)
    for event in stream(30):
        engine.observe([event])
    engine.observe(stream(90)[30:])
    for some in (1, 2, 3):
        asked = [request(f"user{user}", within_km=2.0) for user in range(2, 2 + some)]
        engine.recommend(asked, 3)
        engine.recommend([request("user4", exclude_seen=True)] * some, 4)
        engine.recommend([request("user5")] * some, 4)
    assert sizes(engine._core.programs) == before
