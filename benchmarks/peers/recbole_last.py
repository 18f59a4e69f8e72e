"""RecBole's transformers without the work that no output depends on; for `recbole_run.py`.

SASRec and FDSA read their last layer at the last event alone, but compute it at every event. Here the last
layer computes that event alone, and GELU is one operation instead of five. The outputs are the same, which
`only_last` checks without dropout; with it the masks are other random bits of the same distribution.
"""

from __future__ import annotations

from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from recbole.model.layers import TransformerEncoder  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


def only_last(model: Any, length: int) -> None:
    """Change a model with transformers in place; any other is left alone. length: events of a history."""
    encoders = [module for module in model.modules() if isinstance(module, TransformerEncoder)]
    if not encoders:
        return
    lengths = torch.tensor([length, 1, max(length // 2, 1)])
    history = torch.randint(1, model.n_items, (3, length)) * (torch.arange(length) < lengths[:, None])
    model.eval()
    with torch.no_grad():
        before = model(history, lengths)
    forward, at = model.forward, {}

    def remembering(item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        at["last"] = item_seq_len - 1
        return forward(item_seq, item_seq_len)

    model.forward = remembering
    model.gather_indexes = lambda output, _: output[:, 0]
    for encoder in encoders:
        encoder.forward = _encoder(encoder, at)
        for layer in encoder.layer:
            if layer.feed_forward.intermediate_act_fn == layer.feed_forward.gelu:
                layer.feed_forward.intermediate_act_fn = nn.functional.gelu
    with torch.no_grad():
        torch.testing.assert_close(model(history, lengths), before, rtol=1e-4, atol=1e-5)
    model.train()


def _encoder(encoder: Any, at: dict[str, torch.Tensor]) -> Any:
    def forward(hidden: torch.Tensor, mask: torch.Tensor, output_all_encoded_layers: bool = True) -> list:
        for layer in encoder.layer[:-1]:
            hidden = layer(hidden, mask)
        return [last_event(encoder.layer[-1], hidden, mask, at["last"])]

    return forward


def last_event(layer: Any, hidden: torch.Tensor, mask: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """(B, 1, D): a layer's output at one event of each history (B, L, D); mask (B, 1, L, L) is added."""
    attention, row = layer.multi_head_attention, torch.arange(len(hidden))

    def heads(x: torch.Tensor) -> torch.Tensor:
        return attention.transpose_for_scores(x).transpose(1, 2)

    own = hidden[row, last][:, None]
    scores = heads(attention.query(own)) @ heads(attention.key(hidden)).transpose(2, 3)
    scores = scores / attention.sqrt_attention_head_size + mask[row, :, last][:, :, None]
    weights = attention.attn_dropout(attention.softmax(scores))
    read = (weights @ heads(attention.value(hidden))).transpose(1, 2).flatten(2)
    return layer.feed_forward(attention.LayerNorm(attention.out_dropout(attention.dense(read)) + own))
