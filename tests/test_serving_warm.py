"""After warm_up nothing is compiled any more: no caller waits for a program."""

from __future__ import annotations

import jax
import pytest

from stjax.serving.programs import Programs
from tests.serving import parts, plain, request, start, stream


def sizes(programs: Programs) -> list[int]:
    """How many compiled forms each program has."""
    each = programs.observe, programs.recommend, programs.fetch, programs.put
    return [program._cache_size() for program in each]  # pyright: ignore[reportFunctionMemberAccess]


@pytest.mark.parametrize("committed", [False, True])
def test_no_call_compiles(committed: bool) -> None:
    """Whether or not the parameters are bound to a device, as those of a checkpoint are."""
    model, params, *rest = parts(plain(known=("time",)))
    params = jax.device_put(params, jax.devices()[0]) if committed else params
    engine = start((model, params, *rest), capacity=3)
    engine.warm_up()
    before = sizes(engine._core.programs)
    for event in stream(30):
        engine.observe([event])
    engine.observe(stream(90)[30:])
    for some in (1, 2, 3):
        asked = [request(f"user{user}", within_km=2.0) for user in range(2, 2 + some)]
        engine.recommend(asked, 3)
        engine.recommend([request("user4", exclude_seen=True)] * some, 10)
        engine.recommend([request("user5")] * some, 10)
    assert sizes(engine._core.programs) == before
