"""Counter-based randomness and constant-time draws from many finite distributions at once.

Every number is a hash of (seed, user, index), so that a user's log depends neither on how many users are
simulated together nor on their order. The generator is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014);
tables are Walker's alias tables (1977).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def user_keys(seed: int, users: np.ndarray) -> np.ndarray:
    """One uint64 stream per user (B,), from which `uniforms` draws by index."""
    start = _mix(np.array([(seed + 1) * int(_GOLDEN) & _MASK], np.uint64))
    return _mix(start + (users.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def uniforms(keys: np.ndarray, index: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two independent float64 in [0, 1), each of 32 bits, for that index of every stream."""
    step = np.atleast_1d(np.asarray(index, np.uint64)) + np.uint64(1)  # arrays wrap without a warning
    word = _mix(keys + step * _GOLDEN)
    high = (word >> np.uint64(32)).astype(np.float64)
    low = (word & np.uint64(0xFFFFFFFF)).astype(np.float64)
    high *= 2.0**-32
    low *= 2.0**-32
    return high, low


def _mix(z: np.ndarray) -> np.ndarray:
    z = z ^ (z >> np.uint64(30))
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


@dataclass(frozen=True)
class AliasTable:
    """Distributions over n outcomes, one per row: accept float32 (R, n), alias int32 (R, n)."""

    accept: np.ndarray
    alias: np.ndarray

    @classmethod
    def of(cls, p: np.ndarray) -> AliasTable:
        """From probabilities (..., n), each row with a sum of 1; the leading dimensions are flattened.

        Vose's construction for all rows at once: step by step, one column that is less than full is
        topped up from one that is more than full.
        """
        n = p.shape[-1]
        rest = p.reshape(-1, n).astype(np.float64) * n  # mass left in each column; 1 is a full one
        accept = np.ones(rest.shape, np.float32)
        alias = np.tile(np.arange(n, dtype=np.int32), (len(rest), 1))
        order = np.argsort(rest, axis=1, kind="stable")
        smalls = (rest < 1).sum(axis=1)
        row = np.flatnonzero(smalls)
        low, low_at, high_at = order[row, 0], np.zeros_like(row), smalls[row]
        while len(row):
            high, mass = order[row, high_at], rest[row, low]
            accept[row, low], alias[row, low] = mass, high
            rest[row, high] -= 1 - mass
            fell = rest[row, high] < 1  # then it is itself the next to be topped up
            high_at = high_at + fell
            low_at = low_at + ~fell
            going = (low_at < smalls[row]) & (high_at < n)
            low = np.where(fell, high, order[row, np.minimum(low_at, n - 1)])
            row, low, low_at, high_at = (x[going] for x in (row, low, low_at, high_at))
        return cls(accept, alias)

    def draw(self, row: np.ndarray, u: np.ndarray) -> np.ndarray:
        """An outcome int64 (B,) of each row's distribution, from uniform numbers u (B,)."""
        n = self.accept.shape[1]
        scaled = u * n
        column = scaled.astype(np.int64)
        cell = row * n + column
        keep = scaled - column < self.accept.ravel().take(cell)
        return np.where(keep, column, self.alias.ravel().take(cell))
