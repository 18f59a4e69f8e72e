"""Time that an accelerator itself took, from a trace of the profiler; and its published peaks.

The clock of the host also counts what the device waits for. A trace of `jax.profiler` holds, for each device,
when it was busy: kernels and copies of every stream of a GPU (by CUPTI), programs of a TPU. CPUs have no such
record: there the host's clock is the device's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax


class Peak(NamedTuple):
    """Published, dense: FLOP/s of products of bfloat16 and of float32 (by TF32), bytes/s of memory."""

    bfloat16: float
    float32: float
    memory: float


# By the beginning of the name that JAX gives, the first that fits. From NVIDIA's data sheets.
PEAKS = {
    "NVIDIA H200": Peak(989e12, 495e12, 4.8e12),
    "NVIDIA H100 PCIe": Peak(756e12, 378e12, 2.0e12),
    "NVIDIA H100 NVL": Peak(835e12, 418e12, 3.9e12),
    "NVIDIA H100": Peak(989e12, 495e12, 3.35e12),
    "NVIDIA A100-SXM4-80GB": Peak(312e12, 156e12, 2.04e12),
    "NVIDIA A100 80GB PCIe": Peak(312e12, 156e12, 1.94e12),
    "NVIDIA A100": Peak(312e12, 156e12, 1.56e12),
    "NVIDIA L4": Peak(121e12, 60e12, 0.3e12),
}


def peak_of(kind: str) -> Peak | None:
    """Of a device by its name; None for one that is not known."""
    return next((peak for name, peak in PEAKS.items() if kind == name or kind.startswith(name + " ")), None)


def busy_seconds(planes: Iterable[Any]) -> float | None:
    """How long the devices of a trace were busy, a mean over them; None where it tells of none.

    planes: of a `jax.profiler.ProfileData`. What runs at the same time in several streams counts once.
    """
    each = []
    for plane in planes:
        if not plane.name.startswith("/device:"):
            continue
        lines = list(plane.lines)
        streams = [line for line in lines if line.name.startswith("Stream")]
        streams = streams or [line for line in lines if line.name == "XLA Modules"]
        spans = sorted((e.start_ns, e.start_ns + e.duration_ns) for line in streams for e in line.events)
        if spans:
            each.append(_union(spans))
    return sum(each) / len(each) * 1e-9 if each else None


def traced_seconds(work: Callable[[], Any]) -> float | None:
    """How long the devices are busy with `work`, which waits for its end; None where no trace tells it.

    Only what runs meanwhile is counted, so compile it before.
    """
    if jax.default_backend() == "cpu":
        return None
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            work()
        files = list(Path(folder).glob("**/*.xplane.pb"))
        planes = [plane for file in files for plane in jax.profiler.ProfileData.from_file(str(file)).planes]
        return busy_seconds(planes)


def facts(
    busy: float | None, flops: float, moved: float, kind: str, precision: str = "float32"
) -> dict[str, float]:
    """For a line of results of a device that was busy for so many seconds with so many operations and bytes:
    milliseconds, bytes a second, and where its peaks are known MFU and the share of the memory's.

    precision: of the factors of the products. Empty where the seconds are not known.
    """
    if not busy:
        return {}
    line = {
        "device_milliseconds": round(1e3 * busy, 4),
        "hbm_gbytes_per_second": round(moved / busy / 1e9, 1),
    }
    if peak := peak_of(kind):
        line |= {
            "mfu": round(flops / busy / getattr(peak, precision), 4),
            "hbm_share": round(moved / busy / peak.memory, 4),
        }
    return line


def _union(spans: list[tuple[float, float]]) -> float:
    total, until = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
