"""Whole models in training, as real processes: what they publish, how they go on, what they compare with."""

from __future__ import annotations

import json
import math
import signal

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainers import adapters
from trainers.policy import load_policy, load_start
from trainers.stopping import STOPPED

pytestmark = pytest.mark.deepspeed
IDS = torch.arange(1, 13)[None]
FULL = {"type": "full"}


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.fixture(scope="module")
def full(finish, assign):
    """One process, all at once."""
    return finish(assign("dpo", peft=FULL, n_epochs=3, micro_batch_size=8, learning_rate=1e-4, checkpoints=2))


def sequence_logps(model, asked, answer):
    with torch.no_grad():
        out = model(torch.tensor([asked + answer])).logits[0, len(asked) - 1 : -1].log_softmax(-1)
    return out.gather(1, torch.tensor(answer)[:, None])[:, 0]


def test_a_full_run_ends_in_weights_that_are_the_policy(full, model_path, tiny_llama):
    manifest = full.manifest()
    assert (manifest.kind, manifest.rank, manifest.base_model) == ("merged", None, "tiny")
    assert full.losses()[0] == pytest.approx(math.log(2), abs=1e-6)
    assert full.losses()[-1] < 0.65
    names = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {f"merged/{name}" for name in names} <= set(manifest.files)
    policy = AutoModelForCausalLM.from_pretrained(full.out / "merged")
    pairs = json.loads((full.out / "token_masks.json").read_text())["examples"]
    for pair in pairs[:5]:
        ours, start = (sequence_logps(m, pair["prompt_ids"], pair["chosen"]["ids"]) for m in (policy, tiny_llama()))
        assert pair["chosen"]["log_ratio"] == pytest.approx((ours - start).tolist(), abs=2e-5)
    tokenizer = AutoTokenizer.from_pretrained(full.out / "merged")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(model_path).chat_template


def test_states_of_the_optimiser_are_kept_for_the_newest_checkpoint_and_only_until_the_end(full, launch, assign):
    places = [full.out / checkpoint.path for checkpoint in full.manifest().checkpoints]
    assert [place.name for place in places] == ["step-4", "step-9"]
    for place in places:
        assert (place / "merged" / "model.safetensors").exists()
        assert not list(place.glob("global_step*"))
    attempt = launch(assign("dpo", peft=FULL, n_epochs=50, checkpoints=50))
    attempt.wait_for_step(7)
    attempt.process.send_signal(signal.SIGTERM)
    assert attempt.wait() == STOPPED
    kept = sorted(path.parent.name for path in (attempt.out / "checkpoints").glob("*/global_step*"))
    assert kept == [f"step-{attempt.outcome()['step']}"]
    assert (attempt.out / "checkpoints" / "step-3" / "merged").is_dir()


@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.proof), 3])
def test_two_ranks_train_whole_models_as_one_does(full, finish, assign, stage):
    how = {"n_epochs": 3, "micro_batch_size": 2, "learning_rate": 1e-4, "zero_stage": stage, "head_memory_mb": 0.01}
    spread = finish(assign("dpo", peft=FULL, **how), ranks=2)
    assert spread.losses() == pytest.approx(full.losses(), rel=2e-5)
    ours, theirs = (AutoModelForCausalLM.from_pretrained(a.out / "merged") for a in (spread, full))
    assert torch.allclose(logits(ours), logits(theirs), atol=2e-4)


@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.proof), 3])
def test_a_run_broken_off_and_gone_on_with_is_the_uninterrupted_one(launch, finish, assign, stage):
    how = {"n_epochs": 15, "learning_rate": 1e-4, "lr_scheduler": "constant", "checkpoints": 1}
    asked = assign("dpo", peft=FULL, zero_stage=stage, **how)
    whole = finish(asked, ranks=2)
    attempt = launch(asked, ranks=2)
    attempt.wait_for_step(3)
    attempt.process.send_signal(signal.SIGTERM)
    attempt.wait()
    stopped = attempt.outcome()
    assert stopped["state"] == "stopped"
    [folder] = (attempt.out / "reference").iterdir()
    states = (folder / "states.bin").read_bytes()
    assert (attempt.out / "checkpoints" / f"step-{stopped['step']}" / "merged" / "model.safetensors").exists()
    (folder / "done.json").unlink()  # as if the first launch had died while it filled the store
    (folder / "states.bin").write_bytes(bytes(len(states)))
    again = launch(asked, ranks=2, out=attempt.out)
    again.wait_for_step(stopped["step"] + 1)
    assert (folder / "states.bin").read_bytes() == states, "the start's, not those of what had trained"
    assert again.wait() == 0, again.log()
    assert again.losses() == pytest.approx(whole.losses(), rel=1e-6)
    ours, theirs = (AutoModelForCausalLM.from_pretrained(a.out / "merged") for a in (again, whole))
    assert torch.equal(logits(ours), logits(theirs))


@pytest.mark.proof
@pytest.mark.parametrize("stage", [2, 3])
def test_without_a_store_a_frozen_copy_is_the_reference(full, finish, assign, stage):
    how = {"n_epochs": 3, "learning_rate": 1e-4, "reference_store_gb": 0, "zero_stage": stage}
    online = finish(assign("dpo", peft=FULL, **how), ranks=2)
    assert online.losses() == pytest.approx(full.losses(), rel=2e-5)
    told, stored = (next(e for e in a.events() if "frozen_gb" in e["data"]) for a in (online, full))
    size = sum(weight.numel() for weight in load_start(assign("dpo"), torch.float32).parameters()) * 4
    assert told["message"] == f"A frozen copy of start weights takes {size / 1e6:.3g} MB beside the policy"
    assert stored["message"] == f"A frozen copy of start weights takes {260 * 64 * 4 / 1e6:.3g} MB beside the policy"


def test_all_weights_and_masks_train_together_on_tied_embeddings(finish, assign, tiny_llama, byte_tokenizer, tmp_path):
    tiny_llama(tie_word_embeddings=True).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    how = {"model_path": tmp_path, "peft": FULL, "n_epochs": 2, "learning_rate": 1e-4, "mask": "learned_independent"}
    alone = finish(assign("sparsepo", micro_batch_size=8, **how))
    spread = finish(assign("sparsepo", micro_batch_size=2, zero_stage=3, **how), ranks=2)
    assert spread.losses() == pytest.approx(alone.losses(), rel=2e-5)
    assert alone.losses()[0] == pytest.approx(math.log(2), abs=1e-6)
    assert alone.losses()[-1] < 0.68
    with safe_open(spread.out / "merged" / "model.safetensors", "pt") as weights:
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118 - no mapping
    policy = AutoModelForCausalLM.from_pretrained(spread.out / "merged")
    pair = json.loads((spread.out / "token_masks.json").read_text())["examples"][0]
    start = tiny_llama(tie_word_embeddings=True)
    ours, theirs = (sequence_logps(m, pair["prompt_ids"], pair["chosen"]["ids"]) for m in (policy, start))
    assert pair["chosen"]["log_ratio"] == pytest.approx((ours - theirs).tolist(), abs=2e-5)


@pytest.mark.proof
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_all_weights_train_in_bf16(finish, assign, stage):
    how = {"precision": "bf16", "n_epochs": 3, "learning_rate": 1e-4, "zero_stage": stage}
    attempt = finish(assign("sparsepo", peft=FULL, **how), ranks=2)
    assert attempt.losses()[0] == pytest.approx(math.log(2), abs=1e-2)
    assert attempt.losses()[-1] < 0.67


@pytest.mark.proof
@pytest.mark.parametrize(
    ("kind", "rate"),
    [({"type": "ia3"}, 3e-2), ({"type": "oft", "oft_block_size": 16}, 3e-3), ({"type": "vera", "r": 16}, 3e-2)],
)
def test_other_adapters_train_and_are_published_merged(finish, assign, tiny_llama, kind, rate):
    attempt = finish(assign("dpo", peft=kind, n_epochs=5, learning_rate=rate))
    assert attempt.losses()[0] == pytest.approx(math.log(2), abs=1e-6)
    assert attempt.losses()[-1] < 0.66
    policy = AutoModelForCausalLM.from_pretrained(attempt.out / "merged")
    pair = json.loads((attempt.out / "token_masks.json").read_text())["examples"][0]
    ours, start = (sequence_logps(m, pair["prompt_ids"], pair["chosen"]["ids"]) for m in (policy, tiny_llama()))
    assert pair["chosen"]["log_ratio"] == pytest.approx((ours - start).tolist(), abs=5e-5)


@pytest.mark.proof
def test_a_dora_job_on_an_earlier_policy_publishes_both_merged(finish, assign, model_path, tmp_path):
    first = load_policy(assign("dpo"), torch.float32).eval()
    for name, weight in first.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapters.write(adapters.trained(first), tmp_path / "adapter", "tiny")
    dora = {"type": "lora", "r": 4, "use_dora": True}
    asked = assign("dpo", peft=dora, adapter_path=tmp_path / "adapter", n_epochs=3, learning_rate=5e-3, zero_stage=3)
    second = finish(asked, ranks=2)
    assert second.manifest().kind == "merged"
    assert second.losses()[0] == pytest.approx(math.log(2), abs=1e-6)
    policy = AutoModelForCausalLM.from_pretrained(second.out / "merged")
    pair = json.loads((second.out / "token_masks.json").read_text())["examples"][0]
    ours, start = (sequence_logps(m, pair["prompt_ids"], pair["chosen"]["ids"]) for m in (policy, first))
    assert pair["chosen"]["log_ratio"] == pytest.approx((ours - start).tolist(), abs=5e-5)
    assert float((ours - start).abs().max()) > 0.01
