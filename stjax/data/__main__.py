"""`python -m stjax.data prepare LOG... --out DIR` makes an event store; `show DIR` describes one."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from stjax.command import exit_code
from stjax.data import quality
from stjax.data.log import LogColumns, Ties
from stjax.data.prepare import prepare
from stjax.data.store import EventStore
from stjax.errors import UserError


@dataclass(frozen=True)
class Prepare:
    """Turn a log into an event store with a data-quality report."""

    log: tyro.conf.Positional[tuple[Path, ...]]
    """Files: .csv, .tsv, .jsonl, .ndjson (also .gz), .parquet; their rows follow one another."""
    out: Path
    """Folder to write."""
    columns: Annotated[LogColumns, tyro.conf.arg(name="")] = field(default_factory=LogColumns)
    schema: Path | None = None
    """TOML or JSON file with names of columns; options on the command line come before it."""
    items: Path | None = None
    """Table of items, of the same kinds: the log's column of item ids, and item fields. Fields that it has
    are read there, the others in the log."""
    users: Path | None = None
    """Table of users: the same for user fields."""
    min_user_events: int = 1
    """Drop users with fewer events."""
    min_item_events: int = 1
    """Drop items with fewer events."""
    years: tuple[int, int] = (1900, 2200)
    """First and last year that a time may be in."""
    keep_duplicates: bool = False
    """Keep rows that are equal in every mapped column."""
    ties: Ties = "log"
    """Order of a user's events at one time: the log's, or that of a hash of user and item."""
    tie_seed: int = 0
    """Of that hash."""
    strict: bool = False
    """Refuse a log with bad rows instead of dropping and repairing them."""
    overwrite: bool = False
    """Replace an event store of the same name."""

    def run(self, console: Console) -> None:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        store = prepare(**{k: v for k, v in given.items() if k != "schema"})
        console.print(quality.show(store.quality))
        console.print(f"{store.path}: {len(store):,} events, fingerprint {store.fingerprint}", soft_wrap=True)


@dataclass(frozen=True)
class Show:
    """Print the schema and the data-quality report of an event store."""

    store: tyro.conf.Positional[Path]

    def run(self, console: Console) -> None:
        store = EventStore.open(self.store)
        table = Table("field", "kind", "role", "size", title="schema", title_justify="left")
        table.add_row("item", "id", "event", f"{store.schema.items:,}")
        table.add_row("user", "id", "event", f"{store.schema.users:,}")
        table.add_row("time", "seconds since", "event", f"{store.schema.epoch:,}")
        for name in ("utc_offset", "place"):
            if name in store.columns:
                table.add_row(name, "seconds" if name == "utc_offset" else "degrees", "event")
        for f in store.schema.fields:
            width = f", up to {f.width} each" if f.kind == "multi" else ""
            table.add_row(f.name, f.kind, f.role, f"{f.size:,}{width}")
        console.print(table)
        console.print(quality.show(store.quality))


def main(args: Sequence[str] | None = None) -> int:
    """The exit code, see `stjax.command`; what a file system refuses can be mended, too."""
    args = sys.argv[1:] if args is None else args
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--schema", type=Path)
    file = early.parse_known_args(args)[0].schema
    logger, handler = logging.getLogger("stjax.data"), logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        return exit_code(lambda: _run(args, file), mendable=(UserError, OSError))
    finally:
        logger.removeHandler(handler)


def _run(args: Sequence[str], schema: Path | None) -> None:
    columns = LogColumns() if schema is None else LogColumns.from_file(schema)
    default = Prepare(log=tyro.MISSING, out=tyro.MISSING, columns=columns)
    command = tyro.cli(
        Annotated[Prepare, tyro.conf.subcommand("prepare", default=default)]
        | Annotated[Show, tyro.conf.subcommand("show")],
        prog="python -m stjax.data",
        description=__doc__,
        args=args,
    )
    command.run(Console(markup=False, highlight=False))


if __name__ == "__main__":
    sys.exit(main())
