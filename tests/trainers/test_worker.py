"""The worker as the launcher starts it: real processes, from spec.json to manifest.json or to the last words."""

from __future__ import annotations

import json
import math
import shutil
import signal

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from service.launchers.base import attempt_name
from service.launchers.starts import inherit
from trainers.ranks import Ranks
from trainers.stopping import STOPPED

pytestmark = pytest.mark.deepspeed


@pytest.fixture(scope="module")
def sparsepo(finish, assign):
    """Two ZeRO-2 processes, two epochs, ragged steps."""
    l1 = {"l1_reward": 1e-3, "l1_kl": 1e-3, "mask_weight_decay": 0.1}
    return finish(assign("sparsepo", n_epochs=2, micro_batch_size=2, checkpoints=2, **l1), ranks=2)


@pytest.fixture(scope="module")
def dpo(finish, assign):
    """One process without a launcher, no accumulation."""
    return finish(assign("dpo", n_epochs=3, micro_batch_size=8))


def test_a_two_process_zero_2_sparsepo_run_ends_in_a_manifest(sparsepo, assign):
    manifest = sparsepo.manifest()
    assert (manifest.job, manifest.attempt, manifest.base_model, manifest.rank) == ("ftjob-1", 1, "tiny", 4)
    assert manifest.steps == 6
    assert [c.step_number for c in manifest.checkpoints] == [3, 6]
    assert {"adapter/adapter_model.safetensors", "objective/mask.safetensors", "token_masks.json"} <= set(
        manifest.files
    )
    assert "checkpoints/step-3/adapter/adapter_model.safetensors" in manifest.files
    for name, file in manifest.files.items():
        assert (sparsepo.out / name).stat().st_size == file.bytes
    assert {"sampled/kl/chosen", "mask/mean", "mask/density", "rewards/margins", "train_loss"} <= set(manifest.metrics)
    names = set(load_file(sparsepo.out / "adapter" / "adapter_model.safetensors"))
    assert all(".lora_" in name for name in names)


def test_sparsepo_starts_at_log_2_plus_the_price_of_a_mask_of_ones(sparsepo, pairs_path):
    first = sparsepo.metrics()[0]
    assert first["mask/mean"] == 1
    assert first["sampled/kl/chosen"] == pytest.approx(0, abs=1e-5)
    assert 0 < first["train_loss"] - math.log(2) < 1e-3 * 2 * 9  # at most nine tokens an answer, charged once
    assert sparsepo.manifest().metrics["initial_loss"] == first["train_loss"]


def test_the_mask_is_trained_and_shown_beside_the_adapter(sparsepo):
    mask = load_file(sparsepo.out / "objective" / "mask.safetensors")
    assert float(mask["reward.weight"].abs().max()) > 0
    pairs = json.loads((sparsepo.out / "token_masks.json").read_text())["examples"]
    assert len(pairs) == 22
    for pair in pairs:
        for answer in (pair["chosen"], pair["rejected"]):
            columns = {name: len(column) for name, column in answer.items()}
            assert set(columns) == {"ids", "tokens", "log_ratio", "kl", "mask"}
            assert len(set(columns.values())) == 1
    weights = [weight for pair in pairs for weight in pair["chosen"]["mask"]]
    assert max(weights) - min(weights) > 1e-4


def test_the_published_adapter_gives_the_log_ratios_that_were_shown(dpo, model_path):
    base = LlamaForCausalLM.from_pretrained(model_path)
    policy = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(model_path), dpo.out / "adapter")
    pairs = json.loads((dpo.out / "token_masks.json").read_text())["examples"]
    for pair in pairs[:5]:
        asked, answer = pair["prompt_ids"], pair["chosen"]["ids"]
        ids = torch.tensor([asked + answer])
        with torch.no_grad():
            logps = [m(ids).logits[0, len(asked) - 1 : -1].log_softmax(-1) for m in (policy, base)]
        ratio = (logps[0] - logps[1]).gather(1, torch.tensor(answer)[:, None])[:, 0]
        assert pair["chosen"]["log_ratio"] == pytest.approx(ratio.tolist(), abs=2e-5)


def test_ranks_and_accumulation_change_no_loss(dpo, finish, assign):
    spread = finish(assign("dpo", n_epochs=3, micro_batch_size=1), ranks=2)
    accumulated = finish(assign("dpo", n_epochs=3, micro_batch_size=3, zero_stage=1))
    assert dpo.losses()[0] == pytest.approx(math.log(2), abs=1e-6)
    assert dpo.losses()[-1] < 0.68
    assert spread.losses() == pytest.approx(dpo.losses(), rel=2e-5)
    assert accumulated.losses() == pytest.approx(dpo.losses(), rel=2e-5)
    for name in ("rewards/margins", "drift/chosen", "logps/chosen", "grad_norm"):
        series = [[data[name] for data in attempt.metrics()] for attempt in (dpo, spread, accumulated)]
        assert series[1] == pytest.approx(series[0], rel=2e-4, abs=1e-6)
        assert series[2] == pytest.approx(series[0], rel=2e-4, abs=1e-6)


def test_a_mixture_of_pair_and_token_terms_is_the_same_for_any_share(finish, assign):
    asked = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5], "n_epochs": 2}
    whole = finish(assign("dpo", micro_batch_size=8, **asked))
    spread = finish(assign("dpo", micro_batch_size=1, **asked), ranks=2)
    for name in ("train_loss", "loss/sigmoid", "loss/sft", "grad_norm"):
        series = [[data[name] for data in attempt.metrics()] for attempt in (whole, spread)]
        assert series[1] == pytest.approx(series[0], rel=2e-4)
    assert whole.metrics()[0]["loss/sigmoid"] == pytest.approx(math.log(2), abs=1e-6)
    for data in whole.metrics():
        assert data["train_loss"] == pytest.approx(data["loss/sigmoid"] + 0.5 * data["loss/sft"], rel=1e-6)
    by_epoch = [sum(data["loss/sft"] for data in part) for part in (whole.metrics()[:3], whole.metrics()[3:])]
    assert by_epoch[1] < by_epoch[0]


def test_a_loss_that_couples_pairs_says_so(finish, assign):
    attempt = finish(assign("dpo", loss_type="aot"))
    [warning] = [event["message"] for event in attempt.events() if event["level"] == "warn"]
    assert warning.startswith("The loss compares the examples of each forward pass (at most 4 of 8):")


def test_zero_3_gives_the_losses_of_zero_2(sparsepo, finish, assign):
    l1 = {"l1_reward": 1e-3, "l1_kl": 1e-3, "mask_weight_decay": 0.1}
    third = finish(assign("sparsepo", n_epochs=2, micro_batch_size=2, zero_stage=3, **l1), ranks=2)
    assert third.losses() == pytest.approx(sparsepo.losses(), rel=2e-5)
    ours, theirs = (load_file(a.out / "adapter" / "adapter_model.safetensors") for a in (third, sparsepo))
    assert all(torch.allclose(ours[name], theirs[name], atol=2e-5) for name in theirs)


def test_a_sliding_window_trains_linear_rows_on_unevenly_filled_ranks(finish, assign, tmp_path):
    torch.manual_seed(7)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MistralConfig(vocab_size=260, num_key_value_heads=1, head_dim=16, sliding_window=4, **shape)
    MistralForCausalLM(config).save_pretrained(tmp_path)
    byte_tokenizer = AutoTokenizer.from_pretrained(assign("dpo").model_path)
    byte_tokenizer.save_pretrained(tmp_path)
    how = {"model_path": tmp_path, "micro_batch_tokens": 40}
    alone = finish(assign("sparsepo", micro_batch_size=8, **how))
    uneven = finish(assign("sparsepo", micro_batch_size=3, zero_stage=3, **how), ranks=2)
    assert "linear rows (its attention sees a window of 4 tokens)" in alone.events()[1]["message"]
    assert uneven.events()[1]["data"]["layout"] == "linear"
    assert uneven.losses() == pytest.approx(alone.losses(), rel=2e-5)
    assert alone.losses()[0] == pytest.approx(math.log(2), abs=1e-6)
    assert alone.losses()[-1] != pytest.approx(math.log(2), abs=1e-4)


def test_metrics_events_say_how_far_it_is(dpo, id_rows):
    events = dpo.events()
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    messages = [event["message"] for event in events if event["type"] == "message"]
    assert messages[:2] == [
        "Loading tiny",
        "Training on 22 pairs at learning rate 0.001: 9 steps, 3 epochs, 1 processes, "
        "tree rows (prompts once, the probe agrees with separate sequences)",
    ]
    opening = next(event["data"] for event in events if event["message"].startswith("Training on"))
    assert opening["layout"] == "tree"
    assert opening["rows_per_step"] == 1
    assert opening["epoch_tokens"] == sum(len(part) for row in id_rows(22) for part in row.values())
    assert messages[-2:] == ["Publishing", "Done"]
    last = next(event for event in reversed(events) if event["type"] == "metrics")
    assert last["message"] == f"Step 9/9: training loss={last['data']['train_loss']:.4f}"
    assert (last["data"]["step"], last["data"]["total_steps"], last["data"]["epoch"]) == (9, 9, 3)
    assert last["data"]["eta_seconds"] == 0
    assert last["data"]["learning_rate"] < dpo.metrics()[0]["learning_rate"] == 1e-3
    [checkpoint] = [event["data"]["checkpoint"] for event in events if "checkpoint" in event["data"]]
    assert (checkpoint["step_number"], checkpoint["path"]) == (9, "checkpoints/step-9")
    assert checkpoint["metrics"]["train_loss"] == last["data"]["train_loss"]


def test_the_log_holds_nothing_but_the_events(dpo):
    assert len(dpo.log().splitlines()) == len(dpo.events()), dpo.log()


def test_a_stopped_run_goes_on_where_it_was(launch, finish, assign):
    asked = assign("sparsepo", n_epochs=40, micro_batch_size=4, lr_scheduler="constant", checkpoints=1)
    alone, pair = launch(asked), launch(asked, ranks=2)
    alone.wait_for_step(20)
    alone.process.send_signal(signal.SIGTERM)
    pair.wait_for_step(4)
    pair.process.send_signal(signal.SIGTERM)
    assert alone.wait() == STOPPED == 143
    pair.wait()
    for attempt in (alone, pair):
        stopped = attempt.outcome()
        assert stopped["state"] == "stopped"
        assert 4 <= stopped["step"] < 120
        assert not (attempt.out / "manifest.json").exists()
        assert (attempt.out / "checkpoints" / f"step-{stopped['step']}" / "adapter" / "adapter_config.json").exists()
    alone, pair = finish(asked, out=alone.out), finish(asked, ranks=2, out=pair.out)
    for attempt in (alone, pair):
        assert [data["step"] for data in attempt.metrics()] == list(range(1, 121))
        assert not (attempt.out / "outcome.json").exists()
        assert attempt.manifest().steps == 120
        assert attempt.manifest().metrics["initial_loss"] == pytest.approx(math.log(2), abs=1e-6)
    # broken off at different steps: what either forgot would part them
    assert alone.losses() == pytest.approx(pair.losses(), rel=1e-3)


@pytest.mark.proof
def test_a_stopped_run_goes_on_in_the_next_attempts_folder_as_if_it_had_not_stopped(launch, finish, assign, tmp_path):
    asked = assign("dpo", n_epochs=10, micro_batch_size=4, checkpoints=2)
    whole = finish(asked)
    first = tmp_path / attempt_name(asked.job, 1)
    first.mkdir()
    broken = launch(asked, out=first)
    broken.wait_for_step(8)
    broken.process.send_signal(signal.SIGTERM)
    assert broken.wait() == STOPPED
    inherit(tmp_path, asked.job, 2)
    second = finish(asked.model_copy(update={"attempt": 2}), out=tmp_path / attempt_name(asked.job, 2))
    stopped = broken.outcome()["step"]
    assert [data["step"] for data in second.metrics()] == list(range(stopped + 1, whole.manifest().steps + 1))
    assert broken.losses() + second.losses() == pytest.approx(whole.losses(), abs=1e-6)
    assert second.manifest().attempt == 2
    assert (first / "checkpoints" / f"step-{stopped}" / "adapter" / "adapter_config.json").exists()


def test_a_job_on_an_earlier_policy_starts_at_log_2_and_publishes_the_sum(dpo, finish, assign, model_path):
    second = finish(
        assign("sparsepo", adapter_path=dpo.out / "adapter", n_epochs=2, peft={"target_modules": ["o_proj"]})
    )
    assert second.losses()[0] == pytest.approx(math.log(2), abs=1e-6)
    assert second.manifest().rank == 8
    ids = torch.arange(1, 30)[None]
    base = LlamaForCausalLM.from_pretrained(model_path)
    served = PeftModel.from_pretrained(base, second.out / "adapter")
    earlier = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(model_path), dpo.out / "adapter")
    with torch.no_grad():
        assert float((served(ids).logits - earlier(ids).logits).abs().max()) > 1e-3
    pair = json.loads((second.out / "token_masks.json").read_text())["examples"][0]
    asked, answer = pair["prompt_ids"], pair["chosen"]["ids"]
    ids = torch.tensor([asked + answer])
    with torch.no_grad():
        logps = [m(ids).logits[0, len(asked) - 1 : -1].log_softmax(-1) for m in (served, earlier)]
    ratio = (logps[0] - logps[1]).gather(1, torch.tensor(answer)[:, None])[:, 0]
    assert pair["chosen"]["log_ratio"] == pytest.approx(ratio.tolist(), abs=2e-5)


def test_an_attempt_that_died_while_publishing_publishes_when_it_is_launched_again(dpo, finish, assign, tmp_path):
    out = shutil.copytree(dpo.out, tmp_path / "out")
    (out / "manifest.json").unlink()
    (out / "adapter" / "adapter_config.json").unlink()
    again = finish(assign("dpo", n_epochs=3, micro_batch_size=8), out=out)
    assert again.manifest().metrics == dpo.manifest().metrics
    assert again.manifest().files == dpo.manifest().files


@pytest.mark.proof
def test_the_same_seed_gives_the_same_losses(dpo, finish, assign):
    assert finish(assign("dpo", n_epochs=3, micro_batch_size=8)).losses() == dpo.losses()


def failure(attempt) -> dict:
    assert attempt.wait() == 1
    outcome = attempt.outcome()
    assert outcome["state"] == "failed"
    assert attempt.events()[-1]["level"] == "error"
    assert attempt.events()[-1]["message"] == outcome["error"]["message"]
    return outcome["error"]


def test_a_line_that_the_model_cannot_take_fails_with_its_number(launch, assign, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": [1], "chosen": [2], "rejected": [999]}\n')
    error = failure(launch(assign("dpo", training_path=file)))
    assert error["message"] == "line 1: the non-preferred answer holds token id 999; the model knows 0 to 259"
    assert (error["code"], error["param"]) == ("invalid_line", "training_file")


def test_a_loss_that_is_no_number_names_its_step(launch, assign, tiny_llama, byte_tokenizer, tmp_path):
    broken = tiny_llama()
    torch.nn.init.constant_(broken.model.layers[0].mlp.down_proj.weight, math.nan)
    broken.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    error = failure(launch(assign("dpo", model_path=tmp_path)))
    assert error["message"].startswith("the training loss is not a finite number at step 1:")
    assert error["code"] == "loss_not_finite"


def test_an_error_of_the_workers_own_is_told_as_one(launch, assign, tmp_path):
    error = failure(launch(assign("dpo", training_path=tmp_path / "absent")))
    assert error["message"].startswith("the training stopped with an error of its own, FileNotFoundError")
    assert error["code"] == "worker_error"


def test_only_the_first_rank_speaks():
    assert Ranks(0, 2, torch.device("cpu")).speaks
    assert not Ranks(1, 2, torch.device("cpu")).speaks
