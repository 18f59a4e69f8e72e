"""The engine on several virtual devices; run in processes of their own, which `child` starts.

python -m tests.serving_meshes MESH ...      8 devices: a JSON line for each mesh, and one of what is refused
python -m tests.serving_meshes load RUN      2 devices: what an engine of a run folder answers each user, and
                                             the share of each parameter that a device holds

A mesh is DATAxMODEL. Each begins from a snapshot that another one wrote, the first from that of one device.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stjax.errors import ConfigError
from stjax.events import FIRST
from stjax.nn import GRU, ConcatFusion, Distance, ItemEmbed, Pointer, Recommender, Retrieval, UserEmbed
from stjax.serving import Engine, Item, Recommendation, Request, Settings, Shapes
from stjax.training import Sharding
from stjax.training.sharding import shares
from tests.library import ENCODERS
from tests.meshes import collectives
from tests.quick import environment
from tests.random_events import SCHEMA
from tests.serving import KNOWN, parts, request, start, stream
from tests.test_serving_warm import sizes

SCHEME = dataclasses.replace(SCHEMA, items=211, users=29, multiple=8)  # tables of 216 and 32 rows
SPARE, CAPACITY, USERS, TOP = 13, 8, 23, 61  # so many are answered, more than a device of 8 has items
EVENTS = stream(120, users=USERS, items=SCHEME.items)
MODEL = Recommender(
    items=ItemEmbed(16),
    encoders={"space": ENCODERS["space"], "user": UserEmbed(5)},
    fusion=ConcatFusion(8),
    interest=GRU(),
    head=Retrieval(KNOWN, Pointer(5, window=11), Distance()),
)
BATCHES = {"4x2": 2, "2x4": 4}  # users of a call: too few for `data` to share, and as many as it can


def child(devices: int, *arguments: str) -> list[Any]:
    """The JSON lines of a process with so many devices."""
    place: Any = {"cwd": Path(__file__).parents[1], "env": environment(devices)}
    command = [sys.executable, "-m", "tests.serving_meshes", *arguments]
    done = subprocess.run(command, **place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def engine(made: Any, mesh: str, folder: Path | None = None, **settings: Any) -> Engine:
    """On all devices; on one for the mesh 1x1."""
    data, model = map(int, mesh.split("x"))
    sharding = None if mesh == "1x1" else Sharding(data=data, model=model)
    shapes = Shapes((BATCHES.get(mesh, 7),), (3,), (TOP,))
    own = {"capacity": CAPACITY, "spare_items": SPARE, "shapes": shapes, "sharding": sharding}
    return start(made, folder=folder, **(own | settings))


def requests() -> list[Request]:
    """Of every user, with every filter."""
    texts = [f"item{v}" for v in range(FIRST, SCHEME.items)]
    filters: list[dict[str, Any]] = [
        {},
        {"exclude_seen": True},
        {"allow": texts[::3]},
        {"allow": texts[70:75]},  # of one device only
        {"deny": texts[::2]},
        {"within_km": 3.0},
        {"where": {"category": ["category3"]}, "within_km": 30.0},
    ]
    return [request(f"user{FIRST + k}", k, **filters[k % len(filters)]) for k in range(USERS)]


def differences(one: list[Recommendation], two: list[Recommendation]) -> dict[str, float]:
    """The largest of two scores, relative where they are large, and how many answers have other items."""
    others, worst = 0, 0.0
    for a, b in zip(one, two, strict=True):
        assert len(a.items) == len(b.items) > 0
        worst = max(worst, float((np.abs(a.scores - b.scores) / np.maximum(1, np.abs(a.scores))).max()))
        others += set(a.items) != set(b.items)
    return {"scores": worst, "others": others}


def follow(made: Any, alone: Engine, mesh: str, folder: Path, part: slice) -> dict[str, Any]:
    """An engine that goes on in a folder, while the one on one device reads the same."""
    with engine(made, mesh, folder) as many:
        core, asked = many._core, requests()

        def compared(asked: list[Request]) -> dict[str, float]:
            return differences(alone.recommend(asked, TOP), many.recommend(asked, TOP))

        found = [compared(asked)]
        many.warm_up()
        compiled = sizes(core.programs)
        for each in alone, many:
            each.observe(EVENTS[part])
        found.append(compared(asked))
        new = Item(f"new of {mesh}", place=(40.7, -74.0), fields={"category": "category3"})
        for each in alone, many:
            each.add_items([new])
        near = [dataclasses.replace(one, within_km=9.0, place=new.place) for one in asked]
        found.append(compared(near))
        many.save()
        texts = programs(many)
        return {
            "mesh": mesh,
            "differences": found,
            "named": sum(new.id in each.items for each in many.recommend(near, TOP)),
            "compiled": [compiled, sizes(core.programs)],
            "evictions": many.status()["evictions"],
            "device bytes": [
                many.memory()["device"],
                sum(x.nbytes for x in jax.tree.leaves(core.slots.states)),
            ],
            "shares": {
                **shares(core.weights),
                **{f"states/{n}": s for n, s in shares(core.slots.states).items()},
            },
            "gathered": {name: collectives(text, "all-gather") for name, text in texts.items()},
            "reduced": {name: collectives(text, "all-reduce") for name, text in texts.items()},
        }


def programs(many: Engine) -> dict[str, str]:
    """The compiled programs, for as many users as a call has."""
    core = many._core
    own, states, weights = core.programs, core.slots.states, core.weights
    (batch,), (length,) = own.shapes.batches, own.shapes.chunks
    slots, asked = own.cold(batch), [core.ask(requests()[0], TOP, 0.0)] * batch
    events = core.codec.events(np.full((batch, length), core.codec.missing), np.ones((batch, length), bool))
    filters, query = core._filters(asked, batch), core._query(asked, batch)
    lowered: dict[str, Any] = {
        "observe": own.observe.lower(states, weights, slots, slots, events),  # pyright: ignore
        "recommend": own.recommend.lower(states, weights, slots, query, filters, None, TOP),  # pyright: ignore
        "fetch": own.fetch.lower(states, slots),  # pyright: ignore
        "put": own.put.lower(states, slots, jax.device_get(own.fetch(states, slots))),  # pyright: ignore
        "derive": own._derive.lower(weights.params, weights.catalogue),  # pyright: ignore
    }
    return {name: each.compile().as_text() for name, each in lowered.items()}


def refused(made: Any) -> list[str]:
    """What an engine says of sizes that do not fit."""
    model, params, catalogue, words = made
    single = dataclasses.replace(catalogue, schema=dataclasses.replace(SCHEME, multiple=1))
    odd = jax.tree.map(lambda x: x[:211] if len(x) == 216 else x, params)
    wrong: list[tuple[Any, str, dict[str, Any]]] = [
        (made, "4x2", {"capacity": 9}),
        (made, "2x4", {"spare_items": 14}),
        ((model, odd, single, words), "2x4", {}),
        (made, "3x2", {}),
    ]
    said = []
    for own, mesh, settings in wrong:
        try:
            engine(own, mesh, **settings)
        except ConfigError as error:
            said.append(str(error))
    return said


def main(meshes: list[str]) -> None:
    assert jax.device_count() == 8, "set XLA_FLAGS=--xla_force_host_platform_device_count=8"
    made = parts(MODEL, schema=SCHEME)
    with tempfile.TemporaryDirectory() as own:
        folder = Path(own)
        with engine(made, "1x1", folder / "alone") as alone:
            alone.observe(EVENTS[:60])
            alone.save()
            shutil.copytree(folder / "alone", folder / "many")
            each = 60 // len(meshes)
            for k, mesh in enumerate(meshes):
                part = slice(60 + k * each, 60 + (k + 1) * each)
                print(json.dumps(follow(made, alone, mesh, folder / "many", part)), flush=True)
    print(json.dumps(refused(made)), flush=True)


def load(run: Path) -> None:
    assert jax.device_count() == 2, "set XLA_FLAGS=--xla_force_host_platform_device_count=2"
    shapes = Shapes((8,), (8,), (5,))
    settings = Settings(capacity=48, users=60, spare_items=1, shapes=shapes, sharding=Sharding(model=2))
    with Engine.load(run, settings=settings) as many:
        found = many.recommend([Request(user, 5e8) for user in many.users()], 5)
        answers = {one.user: [one.items, one.scores.tolist()] for one in found}
        print(json.dumps({"answers": answers, "shares": shares(many._core.weights.params)}))


if __name__ == "__main__":
    if sys.argv[1] == "load":
        load(Path(sys.argv[2]))
    else:
        main(sys.argv[1:])
