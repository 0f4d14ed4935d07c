"""Patience, and the lowest of the checkpoints, as functions of the log."""

from __future__ import annotations

import pytest

from trainers.early_stopping import evaluations, is_spent, lowest, sentence, waited
from trainers.manifest import Checkpoint
from trainers.objectives import DPO


def log(*losses: float | None) -> list[dict[str, float]]:
    return [{"step": step} | ({} if loss is None else {"valid_loss": loss}) for step, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "min_delta", "expected"),
    [
        ((), 0.0, 0),
        ((0.7,), 0.0, 0),
        ((0.7, 0.6, 0.5), 0.0, 0),
        ((0.7, 0.7), 0.0, 1),
        ((0.7, 0.8, 0.75), 0.0, 2),
        ((0.7, 0.8, None, None, 0.75), 0.0, 2),
        ((0.7, 0.8, 0.69, 0.7), 0.0, 1),
        ((0.75, 0.5, 0.375), 0.125, 1),  # exactly the delta is not more than it
        ((0.75, 0.5, 0.3125), 0.125, 0),
        ((0.7, 0.65, 0.6, 0.55), 0.12, 0),  # small falls add up: they are measured from the last that counted
    ],
)
def test_waiting_counts_evaluations_since_the_loss_last_fell(losses, min_delta, expected):
    assert waited(log(*losses), min_delta) == expected


def test_without_patience_nothing_is_spent():
    history = log(0.5, *[0.6] * 9)
    assert not is_spent(history, DPO())
    assert is_spent(history, DPO(early_stopping_patience=9))
    assert not is_spent(history, DPO(early_stopping_patience=10))
    assert is_spent(log(0.5, 0.45), DPO(early_stopping_patience=1, early_stopping_min_delta=0.1))


def test_what_a_later_launch_found_of_a_step_counts_once():
    history = [{"step": 1, "valid_loss": 0.6}, {"step": 2}, {"step": 2, "valid_loss": 0.5}, {"step": 3}]
    assert evaluations(history) == {1: 0.6, 2: 0.5}


def test_the_end_is_told_with_its_reason():
    assert sentence(log(0.7, 0.5, None, 0.6)) == (
        "Stopping early after step 3: the validation loss is 0.6000, its lowest was 0.5000 at step 1"
    )


def test_the_lowest_checkpoint_is_the_earliest_of_equals_among_those_evaluated():
    found = [Checkpoint(step_number=step, path=f"checkpoints/step-{step}", metrics={}) for step in (2, 3, 4, 5)]
    assert lowest(found, log(0.1, 0.2, None, 0.5, 0.4, 0.4)) == found[2]
    assert lowest(found[:1], log(0.1, 0.2, None)) is None


def test_a_delta_without_patience_is_refused():
    with pytest.raises(ValueError, match="early_stopping_min_delta goes with early_stopping_patience"):
        DPO(early_stopping_min_delta=0.1)


def test_settings_that_speak_of_the_validation_file_are_known():
    assert DPO(eval_steps="auto", early_stopping_patience="auto", keep="last").asks_for_evaluations() == []
    asked = DPO(eval_steps=5, early_stopping_patience=2, keep="best").asks_for_evaluations()
    assert asked == ["eval_steps", "early_stopping_patience", "keep"]
