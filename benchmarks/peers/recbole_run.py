"""One model of RecBole on sequences that `benchmarks.recbole` has exported; it needs neither stjax nor JAX.

    python -m venv recbole-venv
    recbole-venv/bin/pip install "torch==2.13.0"          # the CPU build
    recbole-venv/bin/pip install "recbole==1.2.1" "setuptools<81" "pandas<3"
    recbole-venv/bin/python benchmarks/peers/recbole_run.py FOLDER NAME SASRec --seeds 0 1 2 \\
        [--set learning_rate=0.003 hidden_dropout_prob=0.3] [--test] [--kept FOLDER]

On Linux `MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4000000000` in the environment makes it faster by a third.

RecBole makes the data set, the model and each training epoch. After every epoch the validation targets are
ranked among all items of the training part, ties counted against the target and, where the protocol says so,
the user's earlier items taken out; the best epoch by that metric is kept, and training stops after
`--patience` epochs without a better one. Batches are of sequences of similar lengths and as wide as their
longest, and transformers compute their last layer at the last event alone (`recbole_last.py`): what comes out
is the same, since RecBole masks the padding on the right and reads no other event. Only with `--test` is the
test part ranked, once, with the parameters of the best epoch. Prints one JSON line per seed. `--kept`
keeps these parameters, so that the same command with `--test` trains no second time, and the rank of every
test target beside its row.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

# RecBole 1.2.1 and what it imports were written for NumPy 1.
ALIASES = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_, "string_": np.bytes_}
ALIASES |= {"bool8": np.bool_, "object0": np.object_, "float": float, "int": int, "object": object}
for name, kind in ALIASES.items():
    if name not in np.__dict__:
        setattr(np, name, kind)
_load = torch.load
torch.load = lambda *args, **options: _load(*args, **{"weights_only": False, **options})

# Only now, with those names in place: hence E402. This environment need not hold RecBole.
from recbole.config import Config  # noqa: E402  # pyright: ignore[reportMissingImports]
from recbole.data import create_dataset, data_preparation  # noqa: E402  # pyright: ignore[reportMissingImports]
from recbole.trainer import Trainer  # noqa: E402  # pyright: ignore[reportMissingImports]
from recbole.utils import get_model, init_seed  # noqa: E402  # pyright: ignore[reportMissingImports]
from recbole_last import only_last  # noqa: E402

SHOWN = ("train_batch_size", "learning_rate", "hidden_size", "embedding_size", "inner_size", "loss_type")
SHOWN += ("n_layers", "num_layers", "n_heads", "hidden_dropout_prob", "attn_dropout_prob", "dropout_prob")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--patience", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[], help="settings of RecBole, name=value")
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads it, too
    torch.set_num_threads(args.threads)
    about = json.loads((args.folder / args.name / "about.json").read_text())
    targets = dict(np.load(args.folder / args.name / "targets.npz")) | {"filter_seen": about["filter_seen"]}
    changed = {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in args.set)}
    for seed in args.seeds:
        print(json.dumps(run(args, about, targets, changed, seed)), flush=True)


def run(
    args: argparse.Namespace, about: dict, targets: dict[str, np.ndarray], changed: dict, seed: int
) -> dict:
    settings = {
        "data_path": str(args.folder),
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"],
        "load_col": {
            "inter": ["user_id", "item_id_list", "item_id"],
            "item": ["item_id", "class"],
        },
        "MAX_ITEM_LIST_LENGTH": about["length"],
        "train_neg_sample_args": None,
        "train_batch_size": 512,
        "eval_batch_size": 512,
        "seed": seed,
        "use_gpu": False,
        "gpu_id": "",
        "show_progress": False,
        "save_dataset": False,
        "state": "ERROR",
        "checkpoint_dir": os.devnull,
    } | changed
    warnings.simplefilter("ignore")
    config = Config(args.model, args.name, config_dict=settings)
    logging.disable(logging.CRITICAL)
    init_seed(seed, True)
    dataset = create_dataset(config)
    train, valid, test = data_preparation(config, dataset)
    init_seed(seed, True)
    model = get_model(config["model"])(config, train._dataset).to("cpu")
    # One model's file turns this search for NaN on for all of them: it triples the time of a step.
    torch.autograd.set_detect_anomaly(False)
    only_last(model, about["length"])
    init_seed(seed, True)
    trainer = Trainer(config, model)
    batches = ByLength(train, dataset.item_list_length_field, seed)
    column = np.asarray([int(t) if t.isdecimal() else 0 for t in dataset.field2id_token["item_id"]])
    run_id = "-".join([args.name, args.model, *sorted(args.set), str(seed)])
    file = None if args.kept is None else args.kept / f"{run_id}.pt"
    if file is not None and file.is_file():
        line, kept = torch.load(file)
    else:
        line, kept = fit(
            args, about, model, trainer, batches, lambda: rank(model, valid, column, targets, "valid")
        )
    shown = {key: config[key] for key in SHOWN if config[key] is not None}
    shown |= {"within": about["within"]} if about.get("within") else {}
    line = {
        "model": args.model,
        **about,
        "seed": seed,
        "settings": shown | changed,
        **line,
        "versions": {"python": platform.python_version()}
        | {p: importlib.metadata.version(p) for p in ("recbole", "torch", "numpy", "pandas")},
    }
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save((line, kept), file)
    if args.test:
        model.load_state_dict(kept)
        ranks = rank(model, test, column, targets, "test")
        line |= {"test": metrics(ranks), "targets": len(ranks)}
        if file is not None:
            columns = {"row": targets["test_row"], "rank": ranks}
            about_run = {key: line[key] for key in ("model", "seed", "settings")}
            columns = about_run | {name: values.tolist() for name, values in columns.items()}
            file.with_suffix(".json").write_text(json.dumps(columns) + "\n")
    return line


def fit(
    args: argparse.Namespace,
    about: dict,
    model: torch.nn.Module,
    trainer: Trainer,
    batches: ByLength,
    validate: Callable[[], np.ndarray],
) -> tuple[dict, dict]:
    """Train to the early stop. Returns what to record, and the parameters of the best epoch."""
    best, kept, start, by_epoch = {about["select"]: -1.0}, {}, time.perf_counter(), []
    for epoch in range(1, args.epochs + 1):
        trainer._train_epoch(batches, epoch)
        means = metrics(validate())
        by_epoch.append(round(means[about["select"]], 5))
        print(
            f"{args.model} {args.set} epoch {epoch}: {time.perf_counter() - start:.0f} s {means}",
            file=sys.stderr,
        )
        if means[about["select"]] > best[about["select"]]:
            best, kept = means, copy.deepcopy(model.state_dict())
        if len(by_epoch) - (int(np.argmax(by_epoch)) + 1) >= args.patience:
            break
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "best_epoch": int(np.argmax(by_epoch)) + 1,
        "epochs": len(by_epoch),
        "patience": args.patience,
        "seconds": round(time.perf_counter() - start, 1),
        "threads": args.threads,
        "by_epoch": by_epoch,
        "valid": best,
    }, kept


class ByLength:
    """The batches of a loader, each from sequences of similar lengths and cut to its longest."""

    def __init__(self, loader: Any, length_field: str, seed: int) -> None:
        self.loader, self.size = loader, loader.config["train_batch_size"]
        self.length = loader._dataset.inter_feat[length_field].numpy()
        self.field, self.random = length_field, np.random.default_rng(seed)

    def __len__(self) -> int:
        return -(-len(self.length) // self.size)

    def __iter__(self) -> Iterator[Any]:
        order = self.random.permutation(len(self.length))
        order = order[np.argsort(self.length[order], kind="stable")]  # random among equal lengths
        for at in self.random.permutation(len(self)):
            yield cut(self.loader.collate_fn(order[at * self.size : (at + 1) * self.size]), self.field)


def cut(interaction: Any, length_field: str) -> Any:
    """The interaction without the columns in which every history is padding."""
    longest = int(interaction[length_field].max())
    interaction.interaction["item_id_list"] = interaction["item_id_list"][:, :longest]
    return interaction


def rank(
    model: torch.nn.Module,
    loader: Any,
    column: np.ndarray,
    targets: dict[str, np.ndarray],
    part: str,
) -> np.ndarray:
    """int64 (N,): 1 + the other candidates that score at least as high as the target.

    column: our id of each of RecBole's items; those below 2 are no candidates.
    """
    where = np.zeros(int(targets["items"]), np.int64)
    where[column] = np.arange(len(column))
    own, offsets, seen = (targets[f"{part}_{name}"] for name in ("item", "seen_offsets", "seen"))
    ranks, at = [], 0
    model.eval()
    with torch.no_grad():
        for interaction, *_ in loader:
            scores = (
                model.full_sort_predict(interaction).view(len(interaction), -1).numpy().astype(np.float64)
            )
            target = np.arange(at, at + len(scores))
            if not np.array_equal(column[interaction["item_id"].numpy()], own[target]):
                raise SystemExit("the targets have come in another order")
            scores = np.where(column >= 2, scores, -np.inf)
            mine = np.take_along_axis(scores, where[own[target]][:, None], axis=1)
            if targets["filter_seen"]:
                for b, t in enumerate(target):
                    scores[b, where[seen[offsets[t] : offsets[t + 1]]]] = -np.inf
            scores[np.arange(len(scores)), where[own[target]]] = -np.inf
            ranks.append(1 + (scores >= mine).sum(axis=1))
            at += len(scores)
    if at != len(own):
        raise SystemExit(f"{at} targets instead of {len(own)}")
    return np.concatenate(ranks)


def metrics(rank: np.ndarray) -> dict[str, float]:
    """Means over the targets, by the names of `stjax.metrics`."""
    return {
        "Acc@1": float((rank <= 1).mean()),
        "HR@10": float((rank <= 10).mean()),
        "NDCG@10": float(np.where(rank <= 10, 1 / np.log2(rank + 1), 0).mean()),
        "MRR": float((1 / rank).mean()),
    }


if __name__ == "__main__":
    main()
