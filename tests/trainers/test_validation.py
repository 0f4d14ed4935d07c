"""The validation file as the worker evaluates it: real processes, values against those of the published policy."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from trainers.stopping import STOPPED

pytestmark = pytest.mark.deepspeed


@pytest.fixture(scope="module")
def held_out(tmp_path_factory, id_rows, write_rows) -> Path:
    """13 other pairs of the same taste: nothing divides them evenly."""
    return write_rows(tmp_path_factory.mktemp("held-out") / "pairs.jsonl", id_rows(13, seed=1))


@pytest.fixture(scope="module")
def contrary(tmp_path_factory, id_rows, write_rows) -> Path:
    """The training's pairs with the answers swapped: the better the training, the worse their loss."""
    names = {"prompt": "prompt", "chosen": "rejected", "rejected": "chosen"}
    swapped = [{name: row[other] for name, other in names.items()} for row in id_rows(22)]
    return write_rows(tmp_path_factory.mktemp("contrary") / "pairs.jsonl", swapped)


@pytest.fixture(scope="module")
def dropout() -> dict[str, Any]:
    """A run that draws random numbers at every step."""
    return {"n_epochs": 3, "checkpoints": 3, "peft": {"lora_dropout": 0.1}}


@pytest.fixture(scope="module")
def validated(finish, assign, held_out, dropout):
    return finish(assign("dpo", validation_path=held_out, eval_steps=2, **dropout))


def of_the_published(attempt, beta: float = 0.1) -> dict[str, float]:
    """DPO's loss and accuracy on the pairs shown, from the published policy's log-ratios, pair by pair."""
    pairs = json.loads((attempt.out / "token_masks.json").read_text())["examples"]
    margins = [beta * (sum(pair["chosen"]["log_ratio"]) - sum(pair["rejected"]["log_ratio"])) for pair in pairs]
    losses = [math.log1p(math.exp(-margin)) for margin in margins]
    right = [margin > 0 for margin in margins]
    return {"valid_loss": sum(losses) / len(losses), "valid/rewards/accuracies": sum(right) / len(right)}


def evaluations(attempt) -> dict[int, float]:
    """The validation loss by step, in the order in which it was told."""
    told = [event["data"] for event in attempt.events() if {"valid_loss", "step"} <= event["data"].keys()]
    return {data["step"]: data["valid_loss"] for data in told}


def sentences(attempt, start: str) -> list[str]:
    return [event["message"] for event in attempt.events() if event["message"].startswith(start)]


def test_a_validation_file_does_not_change_what_is_learned(validated, finish, assign, dropout):
    plain = finish(assign("dpo", **dropout))
    assert validated.losses() == plain.losses()
    name = "adapter/adapter_model.safetensors"
    assert validated.manifest().files[name] == plain.manifest().files[name]
    assert evaluations(plain) == {}


def test_it_is_evaluated_before_the_first_step_as_asked_at_checkpoints_and_at_the_end(validated):
    assert list(evaluations(validated)) == [0, 2, 3, 4, 6, 8, 9]
    assert evaluations(validated)[0] == pytest.approx(math.log(2), abs=1e-6)
    [start] = sentences(validated, "Before the first step: ")
    assert start == "Before the first step: validation loss=0.6931"
    [last] = sentences(validated, "Step 9/9: ")
    assert last.endswith(f", validation loss={evaluations(validated)[9]:.4f}")
    assert sentences(validated, "Validating on ") == ["Validating on 13 pairs"]


def test_the_last_evaluation_is_that_of_the_published_policy(validated):
    expected = of_the_published(validated)
    last = validated.metrics()[-1]
    assert expected["valid_loss"] < math.log(2) - 1e-3
    for name, value in expected.items():
        assert last[name] == pytest.approx(value, abs=1e-5)
        assert validated.manifest().metrics[name] == last[name]


def test_checkpoints_have_the_validation_metrics_beside_the_others(validated):
    found = {c.step_number: c.metrics for c in validated.manifest().checkpoints}
    assert list(found) == [3, 6, 9]
    for step, metrics in found.items():
        assert metrics["valid_loss"] == evaluations(validated)[step]
        assert {"train_loss", "valid/rewards/accuracies", "valid/kl/chosen"} <= metrics.keys()
        assert not any(name.startswith("valid/memory") for name in metrics)


def test_both_files_references_are_kept_within_one_budget(validated, finish, assign, held_out, id_rows):
    told = [e["data"] for e in validated.events() if "reference" in e["data"]]
    assert [(data["file"], data["reference"]) for data in told] == [
        ("training_file", "store"),
        ("validation_file", "store"),
    ]
    answers = [row[name] for row in id_rows(22) for name in ("chosen", "rejected")]
    training = sum(map(len, answers)) * 64 * 4 / 1e9  # a float32 state of width 64 for each token
    tight = finish(assign("dpo", validation_path=held_out, n_epochs=3, reference_store_gb=1.01 * training))
    told = [e for e in tight.events() if "reference" in e["data"]]
    assert [e["data"]["reference"] for e in told] == ["store", "online"]
    assert told[1]["message"].startswith("The reference runs at every evaluation: its states would take ")
    assert evaluations(tight)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert tight.metrics()[-1]["valid_loss"] == pytest.approx(of_the_published(tight)["valid_loss"], abs=1e-5)


@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.proof), 3])
def test_ranks_and_rows_change_no_validation_loss(finish, assign, held_out, stage):
    asked = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5], "n_epochs": 2, "validation_path": held_out}
    alone = finish(assign("dpo", micro_batch_size=8, **asked))
    pair = finish(assign("dpo", micro_batch_size=1, zero_stage=stage, **asked), ranks=2)
    assert list(evaluations(pair)) == list(evaluations(alone)) == [0, 6]
    for step, loss in evaluations(alone).items():
        assert evaluations(pair)[step] == pytest.approx(loss, rel=2e-5)
    last = alone.metrics()[-1]
    assert last["valid_loss"] == pytest.approx(last["valid/loss/sigmoid"] + 0.5 * last["valid/loss/sft"], rel=1e-6)
    assert len(pair.log().splitlines()) == len(pair.events()), pair.log()


@pytest.fixture(scope="module")
def spent(finish, assign, contrary):
    """Two processes; a mask, so that all that is trained is chosen together."""
    asked = {"n_epochs": 10, "checkpoints": 10, "early_stopping_patience": 2, "keep": "best"}
    return finish(assign("sparsepo", validation_path=contrary, l1_reward=1e-3, **asked), ranks=2)


def test_a_training_that_no_longer_improves_ends_with_a_checkpoint(spent):
    assert list(evaluations(spent)) == [0, 3, 6]
    losses = evaluations(spent)
    assert losses[6] > losses[3] > losses[0]
    [sentence] = sentences(spent, "Stopping early ")
    assert sentence == (
        f"Stopping early after step 6: the validation loss is {losses[6]:.4f}, its lowest was {losses[0]:.4f} at step 0"
    )
    assert spent.metrics()[-1]["step"] == 6
    assert [c.step_number for c in spent.manifest().checkpoints] == [3, 6]


def test_the_best_checkpoint_is_what_is_published(spent):
    manifest, losses = spent.manifest(), evaluations(spent)
    best = spent.out / "checkpoints" / "step-3"
    for name in ("adapter/adapter_model.safetensors", "objective/mask.safetensors"):
        assert (spent.out / name).read_bytes() == (best / name).read_bytes()
        assert (spent.out / name).read_bytes() != (spent.out / "checkpoints" / "step-6" / name).read_bytes()
    assert manifest.steps == 3
    assert manifest.metrics["valid_loss"] == losses[3]
    assert manifest.metrics["train_loss"] == spent.losses()[2]
    [event] = [event for event in spent.events() if "published_step" in event["data"]]
    assert event["data"] == {"published_step": 3, "valid_loss": losses[3]}
    assert event["message"].startswith("Publishing the policy after step 3: ")
    [warning] = [event["message"] for event in spent.events() if event["level"] == "warn"]
    assert warning == f"The validation loss was never below {losses[0]:.4f}, that of the start"


def test_the_tokens_shown_are_those_of_the_best_checkpoint(finish, assign, contrary):
    asked = {"n_epochs": 4, "checkpoints": 4, "keep": "best", "validation_path": contrary}
    attempt = finish(assign("dpo", **asked))
    losses = evaluations(attempt)
    assert attempt.manifest().steps == 3
    assert list(losses) == [0, 3, 6, 9, 12]
    assert of_the_published(attempt)["valid_loss"] == pytest.approx(losses[3], abs=1e-5)
    assert losses[12] > losses[3] + 1e-3


def test_tokens_are_counted_over_the_steps_that_ran(spent, id_rows):
    epoch = sum(len(part) for row in id_rows(22) for part in row.values())
    assert spent.manifest().trained_tokens == 2 * epoch  # steps 1 to 6 are two epochs


@pytest.mark.proof
def test_a_relaunch_publishes_what_had_ended_early(spent, finish, assign, contrary, tmp_path):
    out = shutil.copytree(spent.out, tmp_path / "out")
    (out / "manifest.json").unlink()
    asked = assign(
        "sparsepo",
        validation_path=contrary,
        l1_reward=1e-3,
        n_epochs=10,
        checkpoints=10,
        early_stopping_patience=2,
        keep="best",
    )
    again = finish(asked, ranks=2, out=out)
    assert again.manifest().files == spent.manifest().files
    assert again.manifest().trained_tokens == spent.manifest().trained_tokens
    assert again.metrics() == spent.metrics()


@pytest.mark.proof
def test_a_relaunch_goes_on_counting_the_evaluations_without_improvement(launch, finish, assign, contrary):
    asked = assign("dpo", validation_path=contrary, n_epochs=50, eval_steps=10, early_stopping_patience=10)
    attempt = launch(asked)
    attempt.wait_for_step(21)
    attempt.process.send_signal(signal.SIGTERM)
    assert attempt.wait() == STOPPED
    stopped = attempt.outcome()["step"]
    assert 20 < stopped < 100, "it must be stopped between the second evaluation and the last"
    again = finish(asked, out=attempt.out)
    assert again.manifest().steps == again.metrics()[-1]["step"] == 100
    assert list(evaluations(again)) == list(range(0, 101, 10))
    assert len(sentences(again, "Before the first step")) == 1


@pytest.mark.proof
def test_an_evaluation_that_a_stop_had_left_out_is_made_up_for(validated, finish, assign, held_out, dropout, tmp_path):
    out = shutil.copytree(validated.out, tmp_path / "out")
    (out / "manifest.json").unlink()
    state = out / "checkpoints" / "step-9" / "trainer_state.json"
    left = json.loads(state.read_text())
    last = left["log_history"][-1]
    assert last["step"] == 9
    left["log_history"][-1] = {name: value for name, value in last.items() if not name.startswith("valid")}
    state.write_text(json.dumps(left))
    again = finish(assign("dpo", validation_path=held_out, eval_steps=2, **dropout), out=out)
    assert sentences(again, "After step 9: ") == [f"After step 9: validation loss={last['valid_loss']:.4f}"]
    assert again.manifest().metrics == pytest.approx(validated.manifest().metrics, rel=1e-6)
    assert again.manifest().files == validated.manifest().files


def test_a_line_of_the_validation_file_that_the_model_cannot_take_is_named_with_its_field(launch, assign, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": [1], "chosen": [2], "rejected": [999]}\n')
    attempt = launch(assign("dpo", validation_path=file))
    assert attempt.wait() == 1
    error = attempt.outcome()["error"]
    assert (error["code"], error["param"]) == ("invalid_line", "validation_file")
    assert error["message"].startswith("line 1: the non-preferred answer holds token id 999")


def wait_until_written(pattern: str, attempt) -> None:
    deadline = time.monotonic() + 100
    while not any(any(path.read_bytes()) for path in attempt.out.glob(pattern)):
        assert attempt.process.poll() is None, attempt.log()
        assert time.monotonic() < deadline, attempt.log()
        time.sleep(0.02)


@pytest.mark.parametrize("ranks", [0, pytest.param(2, marks=pytest.mark.proof)])
def test_a_stop_while_the_references_states_are_computed_is_heeded_and_gone_on_from(
    launch, finish, assign, id_rows, write_rows, tmp_path, ranks
):
    file = write_rows(tmp_path / "pairs.jsonl", id_rows(600))
    how = {"batch_size": 256, "micro_batch_tokens": 24}  # a pass for almost every pair
    asked = assign("dpo", training_path=file, validation_path=file, **how)
    attempt = launch(asked, ranks=ranks)
    wait_until_written("reference/*/states.bin", attempt)
    attempt.process.send_signal(signal.SIGTERM)
    assert attempt.wait() == (1 if ranks else STOPPED)  # torchrun's own status
    assert attempt.outcome() == {"state": "stopped", "step": 0}
    [left] = [json.loads(path.read_text()) for path in attempt.out.glob("reference/*/paused.json")]
    assert left["passes"] > 0
    [sentence] = sentences(attempt, "Reference states interrupted after ")
    assert sentence.startswith(f"Reference states interrupted after {left['passes']} of ")
    again = finish(asked, ranks=ranks, out=attempt.out)
    assert sentences(again, f"Reference states completed from pass {left['passes'] + 1}:")
    # both files are the same, and so is their store: what is missing in it, or in the wrong place, is no log 2
    assert sentences(again, "Reference states of the validation file found from an earlier launch")
    assert evaluations(again)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert again.manifest().steps == 3
