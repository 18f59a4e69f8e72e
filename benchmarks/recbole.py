"""RecBole on our split: exports the training, validation and test sequences of a config for it to train on.

    python -m benchmarks.recbole configs/movielens.py FOLDER --feature genres
    python -m benchmarks.recbole configs/florence.py FOLDER --feature categories [--within trip]

Then, in an environment of its own (see its docstring), `benchmarks/peers/recbole_run.py FOLDER ...`.

FOLDER/NAME gets NAME.train.inter, NAME.valid.inter and NAME.test.inter (`benchmark_filename`; a line per
target: the user, his last `--length` earlier items, the target), NAME.item with the feature of each item, and
targets.npz: the rows, targets and earlier items by which ranks are taken as in `stjax.metrics.target_rank`.
Every training event but a user's first is a target, as in RecBole's own augmentation; with --within those
alone that continue the trip, session or other field of the event before, as `Batching.within` has it. Ids are
train ids, so both libraries rank the same items.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from stjax.data.dataset import Dataset
from stjax.data.pipeline import continues
from stjax.data.protocols import TEST, VALID
from stjax.events import FIRST, UNSEEN
from stjax.training import load_config
from stjax.training.setup import open_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--feature", required=True, help="item field, categorical or multi")
    parser.add_argument("--length", type=int, default=50, help="events of a history")
    parser.add_argument("--within", help="field that a training target has in common with the event before")
    args = parser.parse_args()

    experiment = load_config(args.config)
    dataset = open_dataset(experiment)
    out = args.folder / experiment.name
    out.mkdir(parents=True, exist_ok=True)
    trained = dataset.train_rows
    first = dataset.train_bounds[np.searchsorted(dataset.train_bounds, np.arange(len(trained)), "right") - 1]
    later = np.flatnonzero(first < np.arange(len(trained)))
    if args.within is not None:
        later = np.intersect1d(later, np.flatnonzero(continues(dataset, args.within)))
    items, users = dataset.items(trained), np.asarray(dataset.store.columns["user"])
    histories = [items[max(f, at - args.length) : at] for f, at in zip(first[later], later, strict=True)]
    write(out / f"{experiment.name}.train.inter", users[trained[later]], histories, items[later])
    arrays: dict[str, Any] = {"items": np.asarray(dataset.schema.items)}
    for part, word in ((VALID, "valid"), (TEST, "test")):
        rows = dataset.targets(part)
        offsets, seen = dataset.seen(rows)
        histories = [seen[a:b][-args.length :] for a, b in itertools.pairwise(offsets.tolist())]
        write(out / f"{experiment.name}.{word}.inter", users[rows], histories, dataset.items(rows))
        arrays |= {
            f"{word}_row": rows,
            f"{word}_user": dataset.store.user_of(rows),
            f"{word}_item": dataset.items(rows),
            f"{word}_seen_offsets": offsets,
            f"{word}_seen": seen,
        }
    np.savez(out / "targets.npz", **arrays)
    values = feature(dataset, args.feature)
    lines = [f"{i}\t{' '.join(map(str, values[i]))}" for i in range(UNSEEN, dataset.schema.items)]
    (out / f"{experiment.name}.item").write_text("\n".join(["item_id:token\tclass:token_seq", *lines]) + "\n")
    about = {
        "data": experiment.name,
        "fingerprint": dataset.fingerprint,
        "protocol": dataset.split.name,
        "filter_seen": experiment.evaluation.filter_seen,
        "select": experiment.evaluation.select if "NDCG" in experiment.evaluation.select else "MRR",
        "length": args.length,
        "feature": args.feature,
        "within": args.within,
        "train_targets": len(later),
    }
    (out / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    print(json.dumps(about))


def write(path: Path, user: np.ndarray, history: list[np.ndarray], item: np.ndarray) -> None:
    """One line per target. Items that training has not seen are left out of the histories; one of which
    nothing is left holds UNSEEN, since RecBole reads no empty history."""
    lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
    for u, h, i in zip(user, history, item, strict=True):
        known = h[h >= FIRST] if (h >= FIRST).any() else [UNSEEN]
        lines.append(f"{u}\t{' '.join(map(str, known))}\t{i}")
    path.write_text("\n".join(lines) + "\n")


def feature(dataset: Dataset, name: str) -> list[list[int]]:
    """The values of each item; 1 stands for none."""
    attributes = dataset.catalogue.items
    column = attributes.multi[name] if name in attributes.multi else attributes.categorical[name][:, None]
    return [[int(v) for v in row if v >= FIRST] or [1] for row in np.asarray(column)]


if __name__ == "__main__":
    main()
