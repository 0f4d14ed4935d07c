"""The validation file as the worker evaluates it: real processes, values against those of the published policy."""

from __future__ import annotations

import json
import math
import signal

import pytest
import torch

from trainers.stopping import STOPPED

pytestmark = pytest.mark.deepspeed


@pytest.fixture(scope="module")
def held_out(tmp_path_factory, id_rows, write_rows):
    """13 other pairs of the same taste: nothing divides them evenly."""
    return write_rows(tmp_path_factory.mktemp("held-out") / "pairs.jsonl", id_rows(13, seed=1))


@pytest.fixture(scope="module")
def contrary(tmp_path_factory, id_rows, write_rows):
    """The same pairs with the answers swapped: the better the training, the worse their loss."""
    swapped = [
        {"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]} for row in id_rows(13, seed=1)
    ]
    return write_rows(tmp_path_factory.mktemp("contrary") / "pairs.jsonl", swapped)


def of_shown(attempt, beta: float = 0.1) -> dict[str, float]:
    """DPO's loss and accuracy from the published policy's log-ratios, written out pair by pair."""
    pairs = json.loads((attempt.out / "token_masks.json").read_text())["examples"]
    margins = [beta * (sum(pair["chosen"]["log_ratio"]) - sum(pair["rejected"]["log_ratio"])) for pair in pairs]
    losses = [math.log1p(math.exp(-margin)) for margin in margins]
    right = [margin > 0 for margin in margins]
    return {"valid_loss": sum(losses) / len(losses), "valid/rewards/accuracies": sum(right) / len(right)}


def evaluations(attempt) -> dict[int, float]:
    return {
        event["data"]["step"]: event["data"]["valid_loss"]
        for event in attempt.events()
        if "valid_loss" in event["data"] and "step" in event["data"]
    }


@pytest.fixture(scope="module")
def validated(finish, assign, held_out):
    asked = {"n_epochs": 3, "checkpoints": 3, "eval_steps": 2, "peft": {"lora_dropout": 0.1}}
    return finish(assign("dpo", validation_path=held_out, **asked))


def test_a_validation_file_does_not_change_what_is_learned(validated, finish, assign):
    plain = finish(assign("dpo", n_epochs=3, checkpoints=3, peft={"lora_dropout": 0.1}))
    assert validated.losses() == plain.losses()
    ours, theirs = (a.manifest().files["adapter/adapter_model.safetensors"] for a in (validated, plain))
    assert ours == theirs
