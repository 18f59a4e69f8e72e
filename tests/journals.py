"""What tests of the journal share: its files and its records."""

from __future__ import annotations

from pathlib import Path

from stjax.serving.journal import Journal


def content(folder: Path) -> dict[str, bytes]:
    """The segment files."""
    return {p.name: p.read_bytes() for p in folder.glob("*.segment")}


def records(journal: Journal, after: int = 0) -> list[bytes]:
    """The records behind that sequence number, having checked theirs."""
    found = list(journal.read(after))
    assert [number for number, _ in found] == list(range(after + 1, journal.last + 1))
    return [record for _, record in found]
