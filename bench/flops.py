"""Floating point operations that a pair cannot be trained without, and how fast this machine multiplies matrices."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cells import Peft
from bench.workload import Pair, Scale, draw_pairs


@dataclass(frozen=True)
class Work:
    """FLOPs: a multiplication with its addition counts as two."""

    backbone: float
    head: float
    attention: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.backbone + self.head + self.attention


def floor(scale: Scale, pair: tuple[int, int, int], peft: Peft) -> Work:
    """Of one pair of (P, C, R) tokens: prompt once, no padding, no recomputation, logits of the answers only,
    the reference not counted.

    N weights in the blocks, V·H in the head; forward 2 FLOPs a weight and token, and as many again for each backward
    product: to the inputs, and (all weights, not under LoRA) to the weights. The adapter's own products are left out.
    Attention: 4·H FLOPs per block for each (query, key), forward, twice that backward.
    """
    prompt, chosen, rejected = pair
    products = 3 if peft == "full" else 2
    seen = _past(prompt + chosen) + rejected * prompt + _past(rejected)
    return Work(
        backbone=2 * products * scale.backbone * (prompt + chosen + rejected),
        head=2 * products * scale.vocab_size * scale.hidden_size * (chosen + rejected),
        attention=3 * 4 * scale.hidden_size * scale.num_hidden_layers * seen,
    )


def _past(length: int) -> float:
    """(query, key) couples of causal attention."""
    return length * (length + 1) / 2


def mean_floor(scale: Scale, pairs: Sequence[Pair], peft: Peft) -> float:
    """FLOPs per pair over these pairs."""
    return sum(floor(scale, pair.lengths, peft).total for pair in pairs) / len(pairs)


def gemm_rate(scale: Scale, tokens: int, answers: int, seconds: float = 2.0) -> float:
    """FLOP/s of forward and input-gradient products in the model's shapes, weighed as the model uses them.

    `tokens` run through the blocks' layers and `answers` through the head, in the scale's precision.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = {"device": device, "dtype": getattr(torch, scale.dtype)}
    h, narrow = scale.hidden_size, scale.hidden_size * scale.num_key_value_heads // scale.num_attention_heads
    shapes = [(h, h), (h, narrow), (h, narrow), (h, h), (h, scale.intermediate_size), (h, scale.intermediate_size)]
    shapes.append((scale.intermediate_size, h))
    layers = [(tokens, *shape) for shape in shapes * scale.num_hidden_layers] + [(answers, h, scale.vocab_size)]
    unique = {layer: (torch.randn(layer[:2], **kind), torch.randn(layer[1:], **kind)) for layer in set(layers)}
    work, best, until = 4 * sum(a * b * c for a, b, c in layers), float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until or best == float("inf"):
        started = time.perf_counter()
        for layer in layers:
            left, right = unique[layer]
            (left @ right) @ right.T
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return work / best


def main(argv: list[str]) -> int:
    """`scale.json`, kind of lengths, where to leave FLOP/s: a process of its own, as the sides have."""
    scale = Scale(**json.loads(Path(argv[0]).read_text()))
    pairs = draw_pairs(scale, "long" if argv[1] == "long" else "short")[: scale.batch]
    answers = sum(sum(pair.lengths[1:]) for pair in pairs)
    rate = gemm_rate(scale, answers + sum(pair.lengths[0] for pair in pairs), answers)
    Path(argv[2]).write_text(json.dumps(rate))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
