"""FM and DeepFM on the instances that `benchmarks.frappe` has exported; it needs PyTorch, not stjax or JAX.

    python benchmarks/peers/fm.py FOLDER deepfm --seeds 0 1 2 [--set size=64 attributes=true] \\
        [--test] [--kept FOLDER]

FM: a bias for every value, and the products of all pairs of embeddings (Rendle, ICDM 2010). DeepFM: the same
embeddings also go through a network (Guo et al., IJCAI 2017). Fields are user, item and context; with
`attributes` also those of the item. Binary cross-entropy, Adam, early stopping on the validation's log loss;
`redraw` draws the negatives of training anew in every epoch instead of keeping those of the file. Only with
`--test` is the test part scored, once, with the parameters of the best epoch; `--kept` keeps the logits of
its instances. Prints one JSON line per seed.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

FIRST = 2  # below it are no items

SETTINGS = {
    "size": 64,
    "dropout": 0.3,
    "learning_rate": 1e-3,
    "weight_decay": 1e-6,
    "hidden": [256, 128],
    "attributes": False,
    "redraw": False,
    "batch": 1024,
    "epochs": 60,
    "patience": 5,
}


class FM(nn.Module):
    """Logits (N,) of instances (N, F) of F fields, whose ids are numbered through all vocabularies."""

    def __init__(self, ids: int, fields: int, settings: dict, deep: bool) -> None:
        super().__init__()
        size, dropout = settings["size"], settings["dropout"]
        self.bias, self.first = nn.Parameter(torch.zeros(1)), nn.Embedding(ids, 1)
        self.embed = nn.Embedding(ids, size)
        nn.init.zeros_(self.first.weight)
        nn.init.normal_(self.embed.weight, std=0.01)
        self.drop, layers, width = nn.Dropout(dropout), [], fields * size
        for hidden in settings["hidden"] if deep else []:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)]
            width = hidden
        self.deep = nn.Sequential(*layers, nn.Linear(width, 1)) if deep else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e = self.embed(x)
        pairs = 0.5 * (e.sum(1) ** 2 - (e**2).sum(1))
        # FM's dropout is on the pairs, as in the code of Neural FM (He and Chua, SIGIR 2017).
        pairs = self.drop(pairs) if self.deep is None else pairs
        y = self.bias + self.first(x).sum((1, 2)) + pairs.sum(1)
        return y if self.deep is None else y + self.deep(e.flatten(1))[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", choices=["fm", "deepfm"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="*", default=[], help="settings, name=value")
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = SETTINGS | {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in args.set)}
    if unknown := set(settings) - set(SETTINGS):
        raise SystemExit(f"unknown settings {sorted(unknown)}; there are {sorted(SETTINGS)}")
    data = Data(args.folder, settings["attributes"])
    for seed in args.seeds:
        line = {"model": args.model, **data.about, "seed": seed, "settings": settings}
        found, logit = fit(args.model == "deepfm", data, settings, seed, args.test)
        line |= found
        print(json.dumps(line | {"versions": {"torch": torch.__version__}}), flush=True)
        if logit is not None and args.kept is not None:
            kept = {key: line[key] for key in ("model", "seed", "settings")}
            kept |= {"row": data.rows["test"].tolist(), "logit": logit.tolist()}
            args.kept.mkdir(parents=True, exist_ok=True)
            name = "-".join(["frappe", args.model, *sorted(args.set), str(seed)])
            (args.kept / f"{name}.json").write_text(json.dumps(kept) + "\n")


class Data:
    """Fields of instances, each vocabulary's ids behind those of the one before."""

    def __init__(self, folder: Path, attributes: bool) -> None:
        about = json.loads((folder / "frappe.json").read_text())
        arrays = dict(np.load(folder / "frappe.npz"))
        self.about = {key: about[key] for key in ("fingerprint", "protocol", "negatives")}
        self.context = ["user", *about["context"]]
        own = about["attributes"] if attributes else []
        sizes = [about["sizes"][name] for name in ("item", *own, *self.context)]
        start = np.concatenate([[0], np.cumsum(sizes)])
        self.ids, self.fields, self.items = int(start[-1]), len(sizes), sizes[0]
        columns = [np.arange(sizes[0]), *[arrays[f"item_{name}"] for name in own]]
        self.of_item = torch.from_numpy(np.stack(columns, 1) + start[: len(columns)])
        self.rows = {part: arrays[f"{part}_row"] for part in ("train", "valid", "test")}
        self.item = {part: torch.from_numpy(arrays[f"{part}_item"].astype(np.int64)) for part in self.rows}
        self.now = {
            part: torch.from_numpy(
                np.stack([arrays[f"{part}_{name}"] for name in self.context], 1) + start[len(columns) : -1]
            )
            for part in self.rows
        }

    def instances(self, part: str, item: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (N * (1 + K), F) and labels of targets and negatives, item (N, 1 + K)."""
        now = self.now[part][:, None].expand(-1, item.shape[1], -1)
        x = torch.cat([self.of_item[item], now], dim=-1)
        label = torch.zeros(item.shape)
        label[:, 0] = 1.0
        return x.flatten(0, 1), label.flatten()


def fit(deep: bool, data: Data, settings: dict, seed: int, test: bool) -> tuple[dict, Any]:
    """What to record, and the logits (N, 1 + K) of the test part or None."""
    torch.manual_seed(seed)
    model = FM(data.ids, data.fields, settings, deep)
    rate, decay = settings["learning_rate"], settings["weight_decay"]
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay)
    item, losses, best, kept, start = data.item["train"], [], {}, {}, time.perf_counter()
    for epoch in range(1, settings["epochs"] + 1):
        if settings["redraw"]:
            drawn = torch.randint(FIRST, data.items, (len(item), item.shape[1] - 1))
            item = torch.cat([item[:, :1], drawn], 1)
        x, label = data.instances("train", item)
        model.train()
        for at in torch.randperm(len(x)).split(settings["batch"]):
            loss = nn.functional.binary_cross_entropy_with_logits(model(x[at]), label[at])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        found, _ = metrics(model, data, "valid")
        losses.append(found["logloss"])
        print(f"epoch {epoch}: {time.perf_counter() - start:.0f} s {found}", file=sys.stderr, flush=True)
        if losses[-1] == min(losses):
            best, kept = found, copy.deepcopy(model.state_dict())
        if len(losses) - 1 - int(np.argmin(losses)) >= settings["patience"]:
            break
    line = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": len(losses),
        "best_epoch": int(np.argmin(losses)) + 1,
        "seconds": round(time.perf_counter() - start, 1),
        "valid": best,
    }
    if not test:
        return line, None
    model.load_state_dict(kept)
    line["test"], logit = metrics(model, data, "test")
    return line, logit


def metrics(model: FM, data: Data, part: str) -> tuple[dict[str, float], Any]:
    """AUC, ties counting half, and mean log loss of the instances of a part; their logits (N, 1 + K)."""
    x, label = data.instances(part, data.item[part])
    model.eval()
    with torch.no_grad():
        y = torch.cat([model(rows) for rows in x.split(8192)])
        loss = float(nn.functional.binary_cross_entropy_with_logits(y, label))
    _, level = np.unique(y.numpy(), return_inverse=True)
    taken, other = np.bincount(level, label), np.bincount(level, 1 - label)
    area = float(taken @ (np.cumsum(other) - 0.5 * other) / (taken.sum() * other.sum()))
    return {"AUC": area, "logloss": loss}, y.reshape(data.item[part].shape).double().numpy()


if __name__ == "__main__":
    main()
