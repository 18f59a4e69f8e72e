"""Users' days, all users of a block at once, one event after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stjax.data.city.chance import uniforms
from stjax.data.city.people import EVENTS, lengths, people
from stjax.data.city.world import GAPS, HABIT, SLOT, SLOTS, World, period

_STEP = 8  # stream numbers reserved for one event


@dataclass(frozen=True)
class Logs:
    """Events of consecutive users, sorted by user and time; int32 (N,) arrays.

    length: int64 (B,), events per user. item: venue. time: local seconds since a Monday 00:00.
    device, move: what the user held and how they move on. taste: the archetype then (hidden from models).
    """

    length: np.ndarray
    item: np.ndarray
    time: np.ndarray
    device: np.ndarray
    move: np.ndarray
    taste: np.ndarray


def simulate(world: World, first: int, stop: int) -> Logs:
    """The logs of users first..stop-1."""
    users = np.arange(first, stop)
    length = lengths(world.city, users)
    order = np.argsort(-length, kind="stable")  # so that the users still active are a prefix
    folk = people(world, users[order])
    active = np.searchsorted(-length[order], -np.arange(length.max()), "left")  # at each event
    out = np.zeros((5, length.max(), len(users)), np.int32)
    draws, city = world.draws, world.city
    slot = folk.slot
    taste, item = folk.taste, folk.home
    device, move = np.zeros_like(slot), np.zeros_like(slot)
    for event, n in enumerate(active):
        key, rhythm, category = folk.key[:n], folk.rhythm[:n], world.category[item[:n]]
        at = EVENTS + event * _STEP
        slot, taste = slot[:n], taste[:n]
        if event:
            u_gap, u_drift = uniforms(key, at)
            slot = slot + GAPS[draws.gap.draw(rhythm * SLOTS + slot % SLOTS, u_gap)]
            fresh = np.minimum(u_drift * (city.archetypes / max(city.drift, 1e-300)), city.archetypes - 1)
            taste = np.where(u_drift < city.drift, fresh.astype(np.int64), taste)
        now = period(slot)
        u_anchor, u_category = uniforms(key, at + 1)
        u_habit, u_venue = uniforms(key, at + 2)
        row = (taste * 48 + now) * city.categories + category
        wish = draws.taste.draw(row, u_category)
        explored = draws.draw_venue(move[:n] * city.cells**2 + world.cell[item[:n]], wish, u_venue)
        favourite = folk.favourite[np.arange(n), wish]
        item = np.where(u_habit < HABIT[device[:n]], favourite, explored)
        home, work = world.anchor[rhythm, now].T
        item = np.where(u_anchor < home + work, folk.work[:n], item)
        item = np.where(u_anchor < home, folk.home[:n], item)
        u_device, u_move = uniforms(key, at + 3)
        where = np.minimum(world.category[item], 2)  # home, work or elsewhere
        device = draws.device.draw(where * 48 + now, u_device)
        move = draws.move.draw(folk.car[:n] * 48 + now, u_move)
        second, _ = uniforms(key, at + 4)
        time = slot * SLOT + (second * SLOT).astype(np.int64)
        for column, value in zip(out, (item, time, device, move, taste), strict=True):
            column[event, :n] = value
    back = np.argsort(order)
    written = np.arange(out.shape[1]) < length[:, None]
    return Logs(length, *(column.T[back][written] for column in out))
