"""Several values in one text: genres, tags. Only the distinct texts are ever split, not each row."""

from __future__ import annotations

import numpy as np
import polars as pl

from stjax.events import FIRST, MISSING

JOINT = "\x1f"  # ASCII's unit separator, between the values of a canonical text


def canonical(
    codes: np.ndarray, texts: pl.Series, separator: str, missing: tuple[str, ...], width: int
) -> tuple[np.ndarray, pl.Series, np.ndarray]:
    """Texts that hold the same values become one: stripped, no empty, missing or repeated ones, order kept.

    codes: int32 (N,), from 1 in `texts`, 0 is missing. Returns the same of the new texts, whose values
    JOINT joins, and bool (N,), True where values beyond `width` were dropped.
    """
    words = pl.col("word")
    split = (
        _words(texts.str.split(separator))
        .with_columns(words.str.strip_chars())
        .filter(~words.is_in(["", *missing]))
        .unique(["row", "word"], keep="first", maintain_order=True)
        .with_columns(place=pl.int_range(pl.len()).over("row"))
    )
    cut = np.zeros(len(texts) + 1, bool)
    cut[split.filter(pl.col("place") == width)["row"].to_numpy() + 1] = True
    kept = split.filter(pl.col("place") < width)
    joined = kept.group_by("row", maintain_order=True).agg(words.str.join(JOINT))
    known = joined["word"].unique().sort()
    new = np.zeros(len(texts) + 1, np.int32)
    new[joined["row"].to_numpy() + 1] = numbered(known, 1, joined["word"])
    return new[codes], known, cut[codes]


def members(texts: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """The vocabulary of some canonical texts, sorted, and the ids of each: int32 (C, W) from FIRST, filled
    up with MISSING; W is the largest number of values, at least 1."""
    split = _words(texts.str.split(JOINT)).with_columns(place=pl.int_range(pl.len()).over("row"))
    known = split["word"].unique().sort()
    row, place = split["row"].to_numpy(), split["place"].to_numpy()
    out = np.full((len(texts), int(place.max(initial=0)) + 1), MISSING, np.int32)
    out[row, place] = numbered(known, FIRST, split["word"])
    return known, out


def numbered(vocabulary: pl.Series, first: int, texts: pl.Series) -> np.ndarray:
    """The id of each text, int32: its position in the vocabulary plus `first`, or MISSING."""
    known = pl.DataFrame({"text": vocabulary}).with_row_index("id", first)
    found = pl.DataFrame({"text": texts}).join(known, on="text", how="left", maintain_order="left")
    return found["id"].cast(pl.Int32).fill_null(MISSING).to_numpy()


def _words(lists: pl.Series) -> pl.DataFrame:
    """One row a value: the number of its text, and the value."""
    frame = pl.DataFrame({"word": lists}, schema={"word": pl.List(pl.String)})
    return frame.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64)).explode("word")
