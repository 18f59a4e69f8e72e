"""The data-quality report: what was read, kept, repaired and dropped, and what the kept events look like."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table as RichTable

from stjax.data.clean import Table
from stjax.data.encode import Encoded
from stjax.data.log import LogColumns
from stjax.data.rows import Rows, first_rows
from stjax.events import FIRST, MISSING

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def report(
    table: Table, columns: LogColumns, rows: Rows, encoded: Encoded, tie_order: Mapping[str, Any]
) -> dict[str, Any]:
    """The report as plain values for JSON. rows.read = rows.kept + the sum of `dropped`, always.

    repaired counts kept rows. missing: the share of kept events, and of items and users for their fields.
    ties: events at the same second as the user's previous one. tie_order: the rule by which these were put in
    order, and the rows that stand elsewhere by it than in the log. examples: up to three row numbers of the
    log by cause, from 1 after the header. tables: counts of rows of the tables of items and of users.
    """
    events, schema = encoded.columns, encoded.schema
    kept, time, user = int(rows.keep.sum()), events["time"], events["user"]
    repaired = {cause: hit & rows.keep for cause, hit in table.repaired.items()}
    ties = int(((user[1:] == user[:-1]) & (time[1:] == time[:-1])).sum())
    examples = rows.examples | {cause: first_rows(hit) for cause, hit in repaired.items()}
    return {
        "rows": {"read": len(rows.keep), "kept": kept, "dropped": len(rows.keep) - kept},
        "dropped": rows.dropped,
        "repaired": {cause: int(hit.sum()) for cause, hit in repaired.items()},
        "examples": {cause: found for cause, found in examples.items() if found},
        "users": schema.users - FIRST,
        "items": schema.items - FIRST,
        "time": {
            "first": _iso(int(time.min()) + schema.epoch),
            "last": _iso(int(time.max()) + schema.epoch),
            "read as": table.time_form,
        },
        "ties": ties,
        "tie order": dict(tie_order),
        "missing": {
            "events": {n: _missing(events[n]) for n in ("place", *columns.fields) if n in events},
            "items": {name: _missing(column[FIRST:]) for name, column in encoded.items.items()},
            "users": {name: _missing(column[FIRST:]) for name, column in encoded.users.items()},
        },
        "items with several values": encoded.several["item"],
        "users with several values": encoded.several["user"],
        "tables": encoded.tables,
        "events per user": _spread(np.diff(encoded.offsets)),
        "events per item": _spread(np.bincount(events["item"])[FIRST:]),
        "columns": columns.as_dict(),
    }


def show(quality: Mapping[str, Any]) -> RichTable:
    """The report as a table for people."""
    out = RichTable("", "count", "share", title="data quality", title_justify="left")
    for column in out.columns[1:]:
        column.justify = "right"
    read, kept = quality["rows"]["read"], quality["rows"]["kept"]
    out.add_row("rows read", f"{read:,}")
    out.add_row("rows kept", f"{kept:,}", _share(kept / read))
    for part, of in (("dropped", read), ("repaired", kept)):
        for cause, count in quality[part].items():
            if count:
                rows = ", ".join(map(str, quality["examples"].get(cause, ())))
                out.add_row(f"{part}: {cause} (row {rows})", f"{count:,}", _share(count / of))
        if not any(quality[part].values()):
            out.add_row(f"{part}: none", "0")
    out.add_section()
    out.add_row("users", f"{quality['users']:,}")
    out.add_row("items", f"{quality['items']:,}")
    out.add_row(f"time {quality['time']['first']} to {quality['time']['last']}")
    out.add_row("ties in time", f"{quality['ties']:,}", _share(quality["ties"] / kept))
    if (moved := quality.get("tie order", {}).get("rows moved", 0)) > 0:
        rule = quality["tie order"]["rule"]
        out.add_row(f"rows moved by the {rule}", f"{moved:,}", _share(moved / kept))
    for side in ("user", "item"):
        spread = quality[f"events per {side}"]
        values = ", ".join(f"{key} {value:,.6g}" for key, value in spread.items())
        out.add_row(f"events per {side}: {values}")
    out.add_section()
    for side, shares in quality["missing"].items():
        for name, share in shares.items():
            out.add_row(f"{side} without {name}", "", _share(share))
    for side in ("items", "users"):
        for name, count in quality.get(f"{side} with several values", {}).items():
            out.add_row(f"{side} with several values of {name} (the first is kept)", f"{count:,}")
    for role, counts in quality.get("tables", {}).items():
        for cause, count in counts.items():
            out.add_row(f"table of {role}s: {cause}", f"{count:,}", _share(count / counts["rows"]))
    return out


def _iso(second: int) -> str:
    epoch = datetime.datetime(1970, 1, 1)
    return (epoch + datetime.timedelta(seconds=second)).isoformat() + "Z"


def _missing(column: np.ndarray) -> float:
    first = column.reshape(len(column), -1)[:, 0]
    gone = np.isnan(first) if np.issubdtype(column.dtype, np.floating) else first == MISSING
    return float(gone.mean())


def _spread(counts: np.ndarray) -> dict[str, float]:
    middle = {f"{q:.0%}": float(np.quantile(counts, q)) for q in _QUANTILES}
    ends = {"min": int(counts.min()), "mean": float(counts.mean()), "max": int(counts.max())}
    return {"min": ends["min"], **middle, "max": ends["max"], "mean": ends["mean"]}


def _share(share: float) -> str:
    return f"{share:.2%}" if share == 0 or share >= 1e-4 else f"{share:.1e}"
