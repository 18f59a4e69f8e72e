"""Run by `benchmarks.als` in an environment that holds `implicit`; it needs neither stjax nor JAX.

Arguments: an .npz of the counts in coordinates and the settings as JSON. Prints one JSON line, and writes the
item factors of every variant beside the input.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import implicit  # pyright: ignore[reportMissingImports]
import numpy as np
from scipy import sparse


def main() -> None:
    file, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    data = np.load(file)
    shape = tuple(data["shape"])
    # Here an entry is the whole weight of an observation: 1 + alpha n.
    weight = 1.0 + settings["alpha"] * data["count"].astype(np.float32)
    matrix = sparse.csr_matrix((weight, (data["user"], data["item"])), shape=shape, dtype=np.float32)
    line: dict[str, object] = {"implicit": implicit.__version__}
    for variant, conjugate in (("exact", False), ("conjugate gradients", True)):
        fits = [fit(matrix, settings, conjugate) for _ in range(settings["rounds"])]
        line[variant] = statistics.median(seconds for seconds, _ in fits)
        np.save(file.with_name(f"{variant}.npy"), fits[0][1])
    print(json.dumps(line))


def fit(matrix: sparse.csr_matrix, settings: dict, conjugate: bool) -> tuple[float, np.ndarray]:
    """Seconds of one fit, and its item factors."""
    model = implicit.als.AlternatingLeastSquares(
        factors=settings["factors"],
        regularization=settings["regularisation"],
        iterations=settings["iterations"],
        use_cg=conjugate,
        num_threads=settings["threads"],
        random_state=0,
    )
    start = time.perf_counter()
    model.fit(matrix, show_progress=False)
    return time.perf_counter() - start, model.item_factors


if __name__ == "__main__":
    main()
