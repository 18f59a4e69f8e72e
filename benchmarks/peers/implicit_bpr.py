"""Run by `benchmarks.bpr` in an environment that holds `implicit`; it needs neither stjax nor JAX.

Arguments: an .npz of the counts in coordinates and the settings as JSON. Prints one JSON line, and writes the
factors of every seed beside the input.
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
    ones = np.ones(len(data["user"]), np.float32)
    matrix = sparse.csr_matrix((ones, (data["user"], data["item"])), shape=tuple(data["shape"]))
    seconds = []
    for seed in settings["seeds"]:
        model = implicit.bpr.BayesianPersonalizedRanking(
            factors=settings["factors"],
            learning_rate=settings["learning_rate"],
            regularization=settings["regularisation"],
            iterations=settings["epochs"],
            num_threads=settings["threads"],
            random_state=seed,
        )
        start = time.perf_counter()
        model.fit(matrix, show_progress=False)
        seconds.append(time.perf_counter() - start)
        np.save(file.with_name(f"user-{seed}.npy"), model.user_factors)
        np.save(file.with_name(f"item-{seed}.npy"), model.item_factors)
    print(json.dumps({"implicit": implicit.__version__, "seconds": statistics.median(seconds)}))


if __name__ == "__main__":
    main()
