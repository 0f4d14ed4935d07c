"""What a run did to single tokens: log-ratio, KL and mask of some pairs, for people and plots to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainers.data.tokens import Encoder, TokenPair
from trainers.learner import Learner
from trainers.rows import on

NAME = "token_masks.json"
PAIRS = 64


@torch.no_grad()
def token_masks(
    learner: Learner, rows: Sequence[TokenPair], encoder: Encoder, *, micro_batch_size: int, device: torch.device
) -> dict[str, Any]:
    """`{"pairs": [{line, prompt, prompt_ids, chosen: {ids, tokens, log_ratio, kl, mask…}, rejected: {…}}]}`.

    At most PAIRS pairs from the start of the rows; every rank must call it, with the same rows. Lists have one
    entry per completion token; `mask` and `kl_mask` are there where the objective weighs tokens.
    """
    learner.eval()
    pairs: list[dict[str, Any]] = []
    shown = rows[:PAIRS]
    for start in range(0, len(shown), micro_batch_size):
        chunk = shown[start : start + micro_batch_size]
        answers = _answers(learner, chunk, encoder, device)
        for place, row in enumerate(chunk):
            ids = row.prompt.tolist()
            both = {"chosen": answers[place], "rejected": answers[len(chunk) + place]}
            pairs.append({"line": row.line, "prompt": encoder.text(ids), "prompt_ids": ids} | both)
    return {"pairs": pairs}


def _answers(
    learner: Learner, rows: Sequence[TokenPair], encoder: Encoder, device: torch.device
) -> list[dict[str, Any]]:
    batch = learner.completions(on(device, learner.layout.collate(rows)), log_kl=True)
    columns: dict[str, Tensor] = {"log_ratio": batch.log_ratio()}
    if batch.kl is not None:
        columns["kl"] = batch.kl
    columns |= learner.objective.token_weights(batch, learner.objective_modules)
    split = {name: torch.split(column.float().cpu(), _lengths(rows)) for name, column in columns.items()}
    return [
        {"ids": ids, "tokens": encoder.pieces(ids)} | {name: _rounded(parts[place]) for name, parts in split.items()}
        for place, ids in enumerate([*(r.chosen.tolist() for r in rows), *(r.rejected.tolist() for r in rows)])
    ]


def _lengths(rows: Sequence[TokenPair]) -> list[int]:
    return [len(row.chosen) for row in rows] + [len(row.rejected) for row in rows]


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.tolist()]
