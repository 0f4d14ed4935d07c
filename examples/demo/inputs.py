"""What the demo tunes and on what: the grammar's reviews, or a model and a preference file of the user's."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.demo import corpus
from trainers.data.preference import Pair, read_pairs

#: pairs that are kept out of training and only asked and scored afterwards
HELD_OUT = 24
PAIRS = 512


@dataclass(frozen=True)
class Inputs:
    """One demo's material."""

    name: str  #: the model's public id
    model: Path
    lines: list[str]  #: of the file that is uploaded
    held_out: list[Pair]
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    #: whether answers are reviews of the grammar, whose words can be counted
    reviews: bool = False


def of_the_grammar(model: Path, method: str) -> Inputs:
    """512 pairs for training and 24 of other draws, with settings that suit a model this small."""
    pairs = corpus.preference_pairs(PAIRS + HELD_OUT)
    lines = [_openai_line(pair) for pair in pairs]
    held_out = _parsed(lines[PAIRS:], model.parent / "held-out.jsonl")
    return Inputs("reviews", model, lines[:PAIRS], held_out, SETTINGS[method], reviews=True)


def of_the_user(model: Path, pairs: Path) -> Inputs:
    """Every tenth pair, at most 24, is kept out of training; a file of fewer than 20 is used for both.

    Raises BadLine naming the first line that is no preference pair.
    """
    parsed = list(read_pairs(pairs))
    if len(parsed) < 20:
        return Inputs(model.resolve().name, model, _lines(pairs), parsed)
    kept = [pair.line for pair in parsed[9::10]][:HELD_OUT]
    lines = [line for number, line in enumerate(_lines(pairs), start=1) if number not in kept]
    return Inputs(model.resolve().name, model, lines, [pair for pair in parsed if pair.line in kept])


#: found by trying: at beta 0.1, or three times this learning rate, the answers fall apart into shreds of sentences
COMMON: dict[str, Any] = {
    "beta": 0.5,
    "n_epochs": 2,
    "batch_size": 16,
    "micro_batch_size": 8,
    "learning_rate": 3e-4,
}
#: the price on the mask is what makes it let go of words that carry no preference
SETTINGS: dict[str, dict[str, Any]] = {
    "dpo": COMMON,
    "sparsepo": COMMON | {"l1_reward": 0.006, "l1_kl": 0.006},
}


def _openai_line(pair: corpus.Pair) -> str:
    answers = {"preferred_output": pair.chosen, "non_preferred_output": pair.rejected}
    row: dict[str, Any] = {"input": {"messages": [{"role": "user", "content": pair.prompt}]}}
    row |= {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}
    return json.dumps(row)


def _parsed(lines: list[str], scratch: Path) -> list[Pair]:
    scratch.write_text("\n".join(lines))
    try:
        return list(read_pairs(scratch))
    finally:
        scratch.unlink()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig").split("\n")
