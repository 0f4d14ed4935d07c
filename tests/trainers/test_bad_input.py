"""What a job's owner may send by mistake, through real workers: a refusal or a warning that names it, and no lost work."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from trainers.checkpoints import saved

pytestmark = pytest.mark.deepspeed


def refusal(attempt) -> dict[str, str]:
    assert attempt.wait() == 1, attempt.log()
    return attempt.outcome()["error"]


def test_a_loss_that_overflows_names_the_step_and_leaves_the_last_good_checkpoint(launch, assign):
    # discopop has an exponential: one large step the wrong way for one pair is enough
    attempt = launch(assign("dpo", loss_type="discopop", beta=100, learning_rate=1, n_epochs=20, checkpoints=50))
    error = refusal(attempt)
    last = saved(attempt.out)[-1]
    assert error["code"] == "loss_not_finite"
    assert error["message"].startswith(f"the training loss is not a finite number at step {last.step_number + 1}:")
    told = [event["data"]["checkpoint"] for event in attempt.events() if "checkpoint" in event["data"]]
    assert told[-1] == last.model_dump()
    assert (attempt.out / last.path / "adapter" / "adapter_model.safetensors").exists()
    assert not (attempt.out / "manifest.json").exists()


def test_a_validation_loss_that_overflows_is_named_as_one(launch, assign, tmp_path, write_rows, id_rows):
    asked = {"loss_type": "discopop", "beta": 100, "learning_rate": 1, "n_epochs": 20, "eval_steps": 1}
    swapped = [{"prompt": r["prompt"], "chosen": r["rejected"], "rejected": r["chosen"]} for r in id_rows(22)]
    attempt = launch(assign("dpo", validation_path=write_rows(tmp_path / "swapped.jsonl", swapped), **asked))
    assert refusal(attempt)["message"].startswith("the validation loss is not a finite number at step ")


def test_a_mask_that_dies_is_told_with_its_step(finish, assign):
    asked = {"learning_rate": 0.5, "lr_scheduler": "constant", "l1_reward": 10.0, "n_epochs": 5}
    attempt = finish(assign("sparsepo", **asked))
    densities = [data["mask/density"] for data in attempt.metrics()]
    alive = sum(density > 0 for density in densities)
    assert 1 <= alive < len(densities) - 5
    [warning] = [event for event in attempt.events() if "mask has been zero" in event["message"]]
    assert warning["level"] == "warn"
    assert warning["data"] == {"step": alive + 5}
    assert warning["message"].startswith(f"At step {alive + 5} the reward mask has been zero on every token")


@pytest.mark.proof
def test_a_model_without_a_pad_token_trains_as_one_that_has_it(
    finish, assign, tiny_llama, byte_tokenizer, model_path, tmp_path
):
    tiny_llama(pad_token_id=None).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token is None
    assert json.loads((tmp_path / "config.json").read_text()).get("pad_token_id") is None
    assert json.loads((model_path / "config.json").read_text())["pad_token_id"] == 0
    assert finish(assign("dpo", model_path=tmp_path)).losses() == finish(assign("dpo")).losses()


@pytest.mark.proof
def test_a_sequence_longer_than_the_context_is_left_out_and_counted(finish, assign, id_rows, write_rows, tmp_path):
    long = {"prompt": [1] * 100, "chosen": [2] * 10, "rejected": [3] * 29}  # the model has 128 places
    attempt = finish(assign("dpo", training_path=write_rows(tmp_path / "pairs.jsonl", [*id_rows(22), long])))
    opening = next(event["message"] for event in attempt.events() if event["message"].startswith("Training on"))
    assert opening.startswith("Training on 22 pairs (1 left out: longer than 128 tokens) ")
    fits = long | {"rejected": [3] * 28}
    attempt = finish(assign("dpo", training_path=write_rows(tmp_path / "pairs.jsonl", [*id_rows(22), fits])))
    opening = next(event["message"] for event in attempt.events() if event["message"].startswith("Training on"))
    assert opening.startswith("Training on 23 pairs at ")


@pytest.mark.parametrize("param", ["training_file", "validation_file"])
def test_a_file_of_which_nothing_is_left_is_refused_in_its_fields_name(launch, assign, write_rows, tmp_path, param):
    same = {"prompt": [1], "chosen": [2, 3], "rejected": [2, 3]}
    place = {"training_file": "training_path", "validation_file": "validation_path"}[param]
    error = refusal(launch(assign("dpo", **{place: write_rows(tmp_path / "pairs.jsonl", [same, same])})))
    assert (error["code"], error["param"]) == ("no_usable_pairs", param)
    assert error["message"].endswith(": 0 pairs (2 left out: identical answers)")


def test_lora_targets_that_match_nothing_are_refused_by_name(launch, assign):
    error = refusal(launch(assign("dpo", peft={"target_modules": ["q_proj", "made_up"]})))
    assert error["param"] == "peft.target_modules"
    assert "made_up" in error["message"]
