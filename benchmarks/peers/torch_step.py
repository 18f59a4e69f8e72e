"""Run by `benchmarks.throughput` in an environment that holds PyTorch; it needs neither stjax nor JAX.

Argument: sizes as JSON. Prints its versions as JSON, then for each line that it reads the seconds of a step,
a mean over `steps` of them. Modules of GRU and attention are PyTorch's own: what its users would write. HSTU
and attention with intervals, which PyTorch has not, are written here by the formulas of their papers, in
PyTorch's plain operations: logits, weights and intervals of all pairs lie in memory, as in the public code.
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


class HSTULayer(nn.Module):
    """y = f(norm(silu(q k^T + bias) v / L) * u) + x, with u, v, q, k = silu(W norm(x)) (Zhai et al., 2024).

    The bias is one number for each lag and one for each power of two of the time gap.
    """

    BUCKETS = 26

    def __init__(self, features: int, length: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.mixed_norm = nn.LayerNorm(features), nn.LayerNorm(features)
        self.uvqk, self.out = nn.Linear(features, 4 * features), nn.Linear(features, features)
        self.lag_bias, self.gap_bias = nn.Parameter(torch.zeros(length)), nn.Embedding(self.BUCKETS, 1)
        self.drop = nn.Dropout(dropout)
        lag = torch.arange(length)[:, None] - torch.arange(length)
        self.register_buffer("lag", lag.clamp(min=0))
        self.register_buffer("past", lag >= 0)

    def forward(self, x, bucket):
        u, v, q, k = F.silu(self.uvqk(self.norm(x))).chunk(4, dim=-1)
        logits = q @ k.transpose(1, 2) + self.lag_bias[self.lag] + self.gap_bias(bucket)[..., 0]
        weights = F.silu(logits) / x.shape[1] * self.past
        return x + self.out(self.drop(self.mixed_norm(weights @ v) * u))


class HSTU(nn.Module):
    def __init__(self, features: int, length: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(HSTULayer(features, length, dropout) for _ in range(2))
        self.norm = nn.LayerNorm(features)

    def forward(self, x, time):
        gap = (time[:, :, None] - time[:, None]).abs() + 1
        bucket = gap.float().log2().long().clamp(max=HSTULayer.BUCKETS - 1)  # once for all layers
        for layer in self.layers:
            x = layer(x, bucket)
        return self.norm(x)


class IntervalBlock(nn.Module):
    """Attention whose keys and values have embeddings of position and of the pair's interval."""

    def __init__(self, features: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.feed_norm = nn.LayerNorm(features), nn.LayerNorm(features)
        self.q, self.k, self.v = (nn.Linear(features, features) for _ in range(3))
        self.up, self.down = nn.Linear(features, features), nn.Linear(features, features)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, positions, intervals, past):
        y = self.norm(x)
        q, k, v = self.q(y), self.k(x) + positions[0], self.v(x) + positions[1]
        logits = q @ k.transpose(1, 2) + (intervals[0] @ q[..., None])[..., 0]
        logits = (logits / q.shape[-1] ** 0.5).masked_fill(~past, -1e9)
        weights = self.drop(logits.softmax(-1))
        x = y + weights @ v + (weights[:, :, None] @ intervals[1])[:, :, 0]
        return x + self.drop(self.down(self.drop(F.relu(self.up(self.feed_norm(x))))))


class Intervals(nn.Module):
    """TiSASRec (Li et al., WSDM 2020): intervals are clipped to 256 of the user's shortest."""

    CLIP = 256

    def __init__(self, features: int, length: int, dropout: float) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(2, length, features))
        self.intervals = nn.ModuleList(nn.Embedding(self.CLIP + 1, features) for _ in range(2))
        self.blocks = nn.ModuleList(IntervalBlock(features, dropout) for _ in range(2))
        self.norm, self.drop = nn.LayerNorm(features), nn.Dropout(dropout)
        self.register_buffer("past", torch.ones(length, length).tril().bool())

    def forward(self, x, interval):
        positions = self.drop(self.positions)
        intervals = [self.drop(own(interval)) for own in self.intervals]
        for block in self.blocks:
            x = block(x, positions, intervals, self.past)
        return self.norm(x)


def intervals_of(time):
    """(B, L, L) of times (B, L), in units of each sequence's shortest gap."""
    shortest = time.diff(dim=1).amin(1)[:, None, None]
    between = (time[:, :, None] - time[:, None]).abs()
    return (between // shortest).clamp(max=Intervals.CLIP)


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
        features, length, dropout = sizes["features"], sizes["length"], sizes["dropout"]
        if sizes["kind"] == "gru":
            self.interest = Recurrent(features, dropout)
        else:
            kinds = {"attention": Attention, "hstu": HSTU, "intervals": Intervals}
            self.interest = kinds[sizes["kind"]](features, length, dropout)

    def loss(self, item, target, negatives, *more):
        """Sampled softmax; negatives of the whole batch, drawn uniformly, so logQ is the same for all."""
        z = self.interest(self.drop(self.items(item)), *more).flatten(0, 1)
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
    time_of_events = torch.randint(60, 86_400, (sizes["rows"], sizes["length"])).cumsum(1)
    # those of TiSASRec are made once, before anything is measured, as its own data loader does
    more = {"hstu": [time_of_events], "intervals": [intervals_of(time_of_events)]}.get(sizes["kind"], [])
    print(json.dumps({"torch": torch.__version__, "peer_threads": torch.get_num_threads()}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for batch in batches:
            negatives = torch.randint(sizes["items"], (sizes["negatives"],))
            loss = model.loss(batch[:, :-1], batch[:, 1:], negatives, *more)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        print((time.perf_counter() - start) / len(batches), flush=True)


if __name__ == "__main__":
    main()
