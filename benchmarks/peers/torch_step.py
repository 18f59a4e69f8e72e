"""Run by `benchmarks.throughput` in an environment that holds PyTorch; it needs neither stjax nor JAX.

Argument: sizes as JSON. Prints its versions as JSON, then for each line that it reads the seconds of a step,
a mean over `steps` of them. Modules are PyTorch's own: what its users would write.
"""

from __future__ import annotations

import json
import sys
import time

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]


class Block(nn.Module):
    """Pre-norm causal attention and a feed-forward network."""

    def __init__(self, features: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.feed_norm = nn.LayerNorm(features), nn.LayerNorm(features)
        self.qkv, self.out = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.up, self.down = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        rows, length, features = x.shape
        qkv = self.qkv(self.norm(x)).view(rows, length, 3, self.heads, features // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.out(y.transpose(1, 2).reshape(rows, length, features)))
        return x + self.drop(self.down(F.gelu(self.up(self.feed_norm(x)))))


class Attention(nn.Module):
    def __init__(self, features: int, length: int, dropout: float) -> None:
        super().__init__()
        self.positions = nn.Embedding(length, features)
        self.blocks = nn.Sequential(Block(features, 2, dropout), Block(features, 2, dropout))
        self.norm = nn.LayerNorm(features)

    def forward(self, x):
        return self.norm(self.blocks(x + self.positions.weight))


class Recurrent(nn.Module):
    def __init__(self, features: int, dropout: float) -> None:
        super().__init__()
        self.gru, self.drop = nn.GRU(features, features, batch_first=True), nn.Dropout(dropout)

    def forward(self, x):
        return self.drop(self.gru(x)[0])


class Model(nn.Module):
    def __init__(self, sizes: dict) -> None:
        super().__init__()
        self.items = nn.Embedding(sizes["items"], sizes["features"])
        self.drop = nn.Dropout(sizes["dropout"])
        if sizes["kind"] == "gru":
            self.interest = Recurrent(sizes["features"], sizes["dropout"])
        else:
            self.interest = Attention(sizes["features"], sizes["length"], sizes["dropout"])

    def loss(self, item, target, negatives):
        """Sampled softmax; negatives of the whole batch, drawn uniformly, so logQ is the same for all."""
        z = self.interest(self.drop(self.items(item))).flatten(0, 1)
        target = target.flatten()
        own = (z * self.items(target)).sum(-1, keepdim=True)
        others = z @ self.items(negatives).T
        others = others.masked_fill(negatives == target[:, None], -1e9)
        logits = torch.cat([own, others], dim=1)
        return F.cross_entropy(logits, torch.zeros(len(target), dtype=torch.long))


def main() -> None:
    sizes = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(sizes["threads"])
    model = Model(sizes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    shape = (sizes["steps"], sizes["rows"], sizes["length"] + 1)
    batches = torch.randint(sizes["items"], shape)
    print(json.dumps({"torch": torch.__version__, "peer_threads": torch.get_num_threads()}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for batch in batches:
            negatives = torch.randint(sizes["items"], (sizes["negatives"],))
            loss = model.loss(batch[:, :-1], batch[:, 1:], negatives)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        print((time.perf_counter() - start) / len(batches), flush=True)


if __name__ == "__main__":
    main()
