"""The instances of configs/frappe.py for other libraries: targets and their negatives, with all their fields.

    python -m benchmarks.frappe FOLDER

Then, where PyTorch is, `benchmarks/peers/fm.py FOLDER` fits FM and DeepFM to them. FOLDER/frappe.npz holds,
for train, valid and test, one row per target: `user`, the context fields and `item`, whose first column is
the target and whose others are items that the user did not choose in that context; and the fields of each
item. FOLDER/frappe.json holds the sizes of all vocabularies. Validation and test are the very instances on
which `train.py` evaluates.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from stjax.data.protocols import TEST, TRAIN, VALID
from stjax.evaluation import negatives
from stjax.training import load_config
from stjax.training.setup import open_dataset

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()

    experiment = load_config(ROOT / "configs" / "frappe.py")
    dataset, count = open_dataset(experiment), experiment.evaluation.negatives
    schema, own = dataset.schema, dataset.catalogue.items
    fields = [f.name for f in schema.select("event", "categorical")]
    arrays: dict[str, Any] = {}
    for part, word in ((TRAIN, "train"), (VALID, "valid"), (TEST, "test")):
        rows = dataset.train_rows if part == TRAIN else dataset.targets(part)
        events = dataset.gather(rows[:, None], np.ones((len(rows), 1), bool))[:, 0]
        drawn = negatives(dataset, rows, count)
        arrays[f"{word}_item"] = np.concatenate([dataset.items(rows)[:, None], drawn], axis=1)
        arrays |= {f"{word}_{name}": events.categorical[name] for name in fields}
        arrays |= {f"{word}_user": events.user, f"{word}_row": rows}
    arrays |= {f"item_{name}": values for name, values in own.categorical.items()}
    sizes = {"user": schema.users, "item": schema.items} | {f.name: f.size for f in schema.fields}
    about = {"fingerprint": dataset.fingerprint, "protocol": dataset.split.name, "negatives": count}
    about |= {"context": fields, "attributes": sorted(own.categorical), "sizes": sizes}
    args.folder.mkdir(parents=True, exist_ok=True)
    np.savez(args.folder / "frappe.npz", **arrays)
    (args.folder / "frappe.json").write_text(json.dumps(about, indent=1) + "\n")
    print(json.dumps({word: arrays[f"{word}_item"].shape for word in ("train", "valid", "test")}))


if __name__ == "__main__":
    main()
