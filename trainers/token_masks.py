"""What a run did to single tokens: log-ratio, KL and mask of some examples, for people and plots to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainers.data.encoder import Encoder
from trainers.data.examples import Answer, Example
from trainers.learner import Learner
from trainers.rows import by_leaf, on

NAME = "token_masks.json"
EXAMPLES = 64


@torch.no_grad()
def token_masks(
    learner: Learner, examples: Sequence[Example], encoder: Encoder, *, micro_batch_size: int, device: torch.device
) -> dict[str, Any]:
    """`{"examples": [{line, prompt, prompt_ids, chosen: {ids, tokens, log_ratio, kl, mask…}, rejected: {…}}]}`.

    At most EXAMPLES from the start; every rank must call it, with the same ones. Lists have one entry per scored
    token; `mask` and `kl_mask` are there where the objective weighs tokens, `weight` where the file does.
    """
    learner.eval()
    shown: list[dict[str, Any]] = []
    names = learner.objective.answers
    for start in range(0, len(examples[:EXAMPLES]), micro_batch_size):
        chunk = examples[:EXAMPLES][start : start + micro_batch_size]
        answers = _answers(learner, chunk, encoder, device)
        for place, example in enumerate(chunk):
            ids = example.prompt.tolist()
            each = {name: answers[place + leaf * len(chunk)] for leaf, name in enumerate(names)}
            shown.append({"line": example.line, "prompt": encoder.text(ids), "prompt_ids": ids} | each)
    return {"examples": shown}


def _answers(
    learner: Learner, examples: Sequence[Example], encoder: Encoder, device: torch.device
) -> list[dict[str, Any]]:
    batch = learner.completions(on(device, learner.layout.collate(examples)))
    columns: dict[str, Tensor] = {"log_ratio": batch.log_ratio()} if batch.ref_logp is not None else {}
    if batch.kl is not None:
        columns["kl"] = batch.kl
    if batch.weights is not None and (batch.weights != 1).any():
        columns["weight"] = batch.weights
    columns |= learner.objective.token_weights(batch, learner.objective_modules)
    answers = by_leaf(examples)
    lengths = [len(answer.scored) for answer in answers]
    split = {name: torch.split(column.float().cpu(), lengths) for name, column in columns.items()}
    return [
        _tokens(answer, encoder) | {name: _rounded(parts[place]) for name, parts in split.items()}
        for place, answer in enumerate(answers)
    ]


def _tokens(answer: Answer, encoder: Encoder) -> dict[str, Any]:
    pieces, ids = encoder.pieces(answer.ids.tolist()), answer.ids.tolist()
    return {"ids": [ids[place] for place in answer.scored], "tokens": [pieces[place] for place in answer.scored]}


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.tolist()]
