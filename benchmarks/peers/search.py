"""Run by `benchmarks.serving` where NumPy, PyTorch and faiss are; it needs neither stjax nor JAX.

The bare search that no answer can do without: products of a query with all item vectors, the 10 largest.
Arguments: items, dimensions, calls, threads, `flat` or `graph`, and perhaps a folder. Prints one JSON line:
milliseconds by library, median and p99; with `graph` HNSW too, and its recall of the exact answer. The graph
is read from the folder where it lies there, else built and kept there. Without calls it is only built.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss  # pyright: ignore[reportMissingImports]
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

K = 10


def main(items: int, size: int, calls: int, threads: int, graph: bool, folder: str | None) -> None:
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    random = np.random.default_rng(0)
    table = random.normal(size=(items, size)).astype(np.float32)
    queries = random.normal(size=(calls, 1, size)).astype(np.float32)
    flat = faiss.IndexFlatIP(size)
    flat.add(table)
    tensor = torch.from_numpy(table)

    def numpy(query: np.ndarray) -> np.ndarray:
        scores = table @ query[0]
        best = np.argpartition(scores, -K)[-K:]
        return best[np.argsort(-scores[best])]

    searches: dict[str, Callable[[np.ndarray], Any]] = {
        "numpy": numpy,
        "torch": lambda query: torch.topk(tensor @ torch.from_numpy(query[0]), K)[1].numpy(),
        "faiss flat": lambda query: flat.search(query, K)[1][0],
    }
    found: dict[str, Any] = {"items": items, "dimensions": size, "calls": calls, "threads": threads}
    if graph:
        index, found["hnsw build seconds"] = _graph(table, folder)
        if not calls:
            print(json.dumps(found))
            return
        index.hnsw.efSearch = 64
        searches["faiss hnsw"] = lambda query: index.search(query, K)[1][0]
        some = queries[: min(calls, 200)]
        exact = flat.search(some[:, 0], K)[1]
        near = index.search(some[:, 0], K)[1]
        hits = [len(np.intersect1d(a, b)) for a, b in zip(exact, near, strict=True)]
        found["hnsw recall"] = round(float(np.mean(hits)) / K, 3)
    times: dict[str, list[float]] = {name: [] for name in searches}
    for query in queries:
        for name, search in searches.items():
            begin = time.perf_counter()
            search(query)
            times[name].append(1e3 * (time.perf_counter() - begin))
    for name, own in times.items():
        found[name] = [round(float(v), 3) for v in (np.median(own), np.percentile(own, 99))]
    found["versions"] = {"torch": torch.__version__, "faiss": faiss.__version__, "numpy": np.__version__}
    print(json.dumps(found))


def _graph(table: np.ndarray, folder: str | None) -> tuple[Any, float | None]:
    """HNSW with 32 links over all rows of (items, size), and the seconds that building took, if it did."""
    items, size = table.shape
    kept = None if folder is None else Path(folder) / f"hnsw-{items}-{size}.faiss"
    if kept is not None and kept.is_file():
        return faiss.read_index(str(kept)), None
    index = faiss.IndexHNSWFlat(size, 32, faiss.METRIC_INNER_PRODUCT)
    begin = time.perf_counter()
    index.add(table)
    seconds = round(time.perf_counter() - begin, 1)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        faiss.write_index(index, str(partial))
        partial.replace(kept)
    return index, seconds


if __name__ == "__main__":
    items, size, calls, threads = map(int, sys.argv[1:5])
    main(items, size, calls, threads, sys.argv[5] == "graph", sys.argv[6] if len(sys.argv) > 6 else None)
