"""What tests of the journal share: where it lies, its files and its records.

A test file takes the fixtures by assignment, `folder = journals.folder`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stjax.serving.journal import Journal


@pytest.fixture(scope="module", autouse=True)
def no_fsync() -> Iterator[None]:
    """Thousands of them would take a minute, and no test can see what they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Not there yet."""
    return tmp_path / "some" / "journal"


def content(folder: Path) -> dict[str, bytes]:
    """The segment files."""
    return {p.name: p.read_bytes() for p in folder.glob("*.segment")}


def records(journal: Journal, after: int = 0) -> list[bytes]:
    """The records behind that sequence number, having checked theirs."""
    found = list(journal.read(after))
    assert [number for number, _ in found] == list(range(after + 1, journal.last + 1))
    return [record for _, record in found]
