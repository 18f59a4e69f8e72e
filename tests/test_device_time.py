"""Time of an accelerator, read from a trace: what overlaps counts once, and nothing of the host counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks import device_time
from benchmarks.device_time import busy_seconds, facts, peak_of, traced_seconds


def plane(name: str, **lines: list[tuple[float, float]]) -> Any:
    """A plane of a profile; spans as (start, duration), in nanoseconds."""
    made = [
        SimpleNamespace(
            name=line.replace("_", " "),
            events=[SimpleNamespace(start_ns=start, duration_ns=lasts) for start, lasts in spans],
        )
        for line, spans in lines.items()
    ]
    return SimpleNamespace(name=name, lines=made)


HOST = plane("/host:CPU", python=[(0.0, 1e9)])


def test_what_overlaps_counts_once() -> None:
    first, second = [(100.0, 50.0), (0.0, 20.0)], [(110.0, 10.0), (140.0, 30.0)]
    one = plane("/device:GPU:0", Stream_1=first, Stream_2=second, XLA_Modules=[(0.0, 1e6)])
    assert busy_seconds([HOST, one]) == pytest.approx((20 + 70) * 1e-9)
    two = plane("/device:GPU:1", Stream_1=[(0.0, 30.0)])
    assert busy_seconds([one, HOST, two]) == pytest.approx(60e-9)  # a mean over the devices
    idle = plane("/device:GPU:2", Stream_1=[])
    assert busy_seconds([two, idle]) == pytest.approx(30e-9)


def test_a_tpu_tells_of_programs() -> None:
    tpu = plane("/device:TPU:0", Steps=[(0.0, 500.0)], XLA_Modules=[(0.0, 40.0), (90.0, 7.0)])
    assert busy_seconds([tpu]) == pytest.approx(47e-9)


def test_a_trace_without_devices_tells_nothing() -> None:
    assert busy_seconds([HOST]) is None and busy_seconds([]) is None
    assert traced_seconds(lambda: None) is None or jax.default_backend() != "cpu"
    assert facts(None, 1.0, 1.0, "NVIDIA H100 80GB HBM3") == {}


def test_a_trace_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A true trace, of this machine, whose threads are taken for the streams of a device."""
    double = jax.jit(lambda x: jnp.sin(x) @ x)
    x = jnp.ones((97, 97))
    double(x).block_until_ready()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    read, found = busy_seconds, []

    def as_devices(planes: Any) -> float | None:
        found.extend(planes)
        assert read(planes) is None
        renamed = [
            SimpleNamespace(
                name="/device:" + p.name,
                lines=[SimpleNamespace(name="Stream", events=x.events) for x in p.lines],
            )
            for p in planes
        ]
        return read(renamed)

    monkeypatch.setattr(device_time, "busy_seconds", as_devices)
    seconds = traced_seconds(lambda: double(x).block_until_ready())
    assert found and seconds is not None and 0 < seconds < 60


def test_shares_of_the_peaks() -> None:
    h100 = peak_of("NVIDIA H100 80GB HBM3")
    assert h100 == device_time.PEAKS["NVIDIA H100"] and peak_of("NVIDIA L40S") is None
    assert peak_of("NVIDIA H100 PCIe") == device_time.PEAKS["NVIDIA H100 PCIe"]
    line = facts(0.5, 0.2 * 989e12, 0.335e12, "NVIDIA H100 80GB HBM3", "bfloat16")
    assert line == {
        "device_milliseconds": 500.0,
        "hbm_gbytes_per_second": 670.0,
        "mfu": 0.4,
        "hbm_share": 0.2,
    }
    assert facts(0.5, 0.2 * 495e12, 1.0, "NVIDIA H100 80GB HBM3")["mfu"] == 0.4  # float32, by TF32
    assert set(facts(0.5, 1.0, 1.0, "another")) == {"device_milliseconds", "hbm_gbytes_per_second"}
