"""Next-token training of a small model on short documents, from nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

#: called after each step with (steps done, steps in all, loss in nats per token)
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Recipe:
    """How long and how fast; AdamW with warm-up and a cosine to zero."""

    steps: int = 340
    rows: int = 64  #: documents per step
    learning_rate: float = 4e-3
    warmup: int = 20  #: steps
    weight_decay: float = 0.05
    seed: int = 0


def pretrain(model: LlamaForCausalLM, documents: list[list[int]], recipe: Recipe, progress: Progress) -> float:
    """Train on token ids, each document a row of its own; returns the loss of the last step in nats per token."""
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _pace(step, recipe))
    loss = math.nan
    for step, (ids, labels) in enumerate(_batches(documents, recipe), start=1):
        logits = model(input_ids=ids).logits[:, :-1]
        objective = cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten())
        torch.autograd.backward(objective)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        loss = objective.item()
        progress(step, recipe.steps, loss)
    return loss


def _pace(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - recipe.warmup) / (recipe.steps - recipe.warmup))


def _batches(documents: list[list[int]], recipe: Recipe) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded ids and labels, both (rows, longest); rows of similar length together, so that little is padding."""
    rng = random.Random(recipe.seed)
    waiting: list[list[list[int]]] = []
    for _ in range(recipe.steps):
        if not waiting:
            pool = sorted(rng.sample(documents, min(len(documents), 16 * recipe.rows)), key=len)
            waiting = [pool[i : i + recipe.rows] for i in range(0, len(pool), recipe.rows)]
            rng.shuffle(waiting)
        yield _padded(waiting.pop())


def _padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    return ids, labels
