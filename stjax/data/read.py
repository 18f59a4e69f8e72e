"""Reading logs with polars: CSV and TSV (also gzipped), Parquet and JSON lines, to one LazyFrame."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from stjax.data.log import LogError

_TEXT = (".csv", ".tsv")
_KINDS = ".csv, .csv.gz, .tsv, .tsv.gz, .parquet, .jsonl, .jsonl.gz, .ndjson, .ndjson.gz"


def scan(paths: Sequence[Path], needed: Mapping[str, str]) -> pl.LazyFrame:
    """The needed columns of one or more files, rows in the order given.

    needed: column -> the role that asks for it. Text files are read as text throughout: nothing infers
    that `007` is a number. Raises LogError for a missing or unreadable file, an unknown kind and a missing
    column.
    """
    if not paths:
        raise LogError("no log was given")
    frames = [select(scan_file(Path(path)), needed, str(path)) for path in paths]
    first = frames[0].collect_schema()
    for path, frame in zip(paths[1:], frames[1:], strict=True):
        for name, dtype in frame.collect_schema().items():
            if dtype != first[name]:
                raise LogError(
                    f"column {name!r} is {dtype} in {path} and {first[name]} in {paths[0]}: "
                    "convert the files to one kind"
                )
    return pl.concat(frames)


def select(log: pl.LazyFrame, needed: Mapping[str, str], name: str = "the log") -> pl.LazyFrame:
    """The needed columns. Raises LogError with the columns that exist where one does not, and where a text
    file has two of one name."""
    with readable(name):
        columns = log.collect_schema().names()
    for column, role in needed.items():
        if column not in columns:
            raise LogError(f"{name} has no column {column!r} (for {role}); it has {columns}")
        if f"{column}_duplicated_0" in columns:  # so polars calls the second
            raise LogError(f"{name} has two columns {column!r} (for {role}): rename one in its header")
    return log.select(*needed)


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn what polars raises on a malformed file into one LogError."""
    try:
        yield
    except pl.exceptions.NoDataError as error:
        raise LogError(f"{name} is empty") from error
    except pl.exceptions.PolarsError as error:
        # polars goes on with advice on its own arguments, which are not ours to give
        message = " ".join(str(error).split("You might want")[0].split("Consider")[0].split())
        remedy = ""
        if "utf-8" in message:
            remedy = "; save it as UTF-8, e.g. by iconv -f latin1 -t utf-8"
        elif isinstance(error, pl.exceptions.ComputeError) and name.lower().removesuffix(".gz")[-4:] in _TEXT:
            remedy = '; a quote inside a field must be doubled and the field quoted ("5"" nail")'
        raise LogError(f"{name} cannot be read: {message[:300]}{remedy}") from error
    except OSError as error:
        raise LogError(f"{name} cannot be read: {error}") from error


def scan_file(path: Path) -> pl.LazyFrame:
    """All columns of one file. Raises LogError where it is missing, unreadable or of an unknown kind."""
    if not path.is_file():
        raise LogError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    with readable(str(path)):
        if kind in ("csv", "tsv"):
            separator = "," if kind == "csv" else "\t"
            log = pl.scan_csv(path, infer_schema=False, separator=separator, glob=False)
        elif kind == "parquet":
            log = pl.scan_parquet(path, glob=False)
        elif kind in ("jsonl", "ndjson"):
            if path.stat().st_size == 0:
                raise LogError(f"{path} is empty")
            # A key that no early line has cannot be asked for.
            found = pl.scan_ndjson(path, infer_schema_length=10_000).collect_schema()
            log = pl.scan_ndjson(path, schema={key: _plain(dtype) for key, dtype in found.items()})
        else:
            raise LogError(f"{path} is of no known kind; known: {_KINDS}")
    return log


def _plain(dtype: pl.DataType) -> pl.DataType:
    """What a key of JSON lines is read as: text, but for lists and objects, whose text nobody means."""
    if dtype == pl.List(pl.Null):  # all empty
        return pl.List(pl.String)
    return dtype if dtype.is_nested() else pl.String()
