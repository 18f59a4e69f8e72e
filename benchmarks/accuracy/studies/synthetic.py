"""The synthetic city: the full model, and the same without time or without space, beside the oracle."""

from __future__ import annotations

from benchmarks.accuracy.studies._vary import config

base = config("synthetic")
pointer = base.model.head.pointer  # pyright: ignore[reportAttributeAccessIssue]
