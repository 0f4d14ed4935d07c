"""Everything that is no plain adapter: what trains, what it starts from, and the weights it leaves."""

from __future__ import annotations

import json
import math
import shutil
import signal

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainers import adapters
from trainers.artifacts import Learned
from trainers.errors import Unusable
from trainers.layouts import LinearLayout
from trainers.learner import Learner
from trainers.merged import Merged
from trainers.objectives import DPO
from trainers.policy import load_policy, load_start
from trainers.probe import choose
from trainers.start import AdapterOff, FrozenStart
from trainers.stopping import STOPPED

IDS = torch.arange(1, 13)[None]
FULL = {"type": "full"}
KINDS = [
    {"type": "lora", "r": 4, "use_dora": True},
    {"type": "lora", "r": 4, "use_rslora": True},
    {"type": "ia3"},
    {"type": "oft", "oft_block_size": 16},
    {"type": "vera", "r": 16},
]


def moved(policy, std=0.05, seed=3):
    """The policy as if it had trained: no weight is where it was."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight += std * torch.randn(weight.shape, generator=draw)
    return policy.eval()


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.mark.parametrize("kind", [*KINDS, FULL], ids=lambda kind: "-".join(map(str, kind)) + kind["type"])
def test_merged_weights_give_the_unmerged_policys_logits(assign, tmp_path, kind, tiny_llama):
    asked = assign("dpo", peft=kind, serving="merged")
    policy = load_policy(asked, torch.float32).eval()
    assert torch.allclose(logits(policy), logits(tiny_llama()), atol=1e-5), "a fresh adapter changes nothing"
    moved(policy)
    Merged.of(policy, keep=True).write(tmp_path / "merged", asked)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(loaded), logits(policy), atol=2e-4, rtol=1e-4)
    assert float((logits(loaded) - logits(tiny_llama())).abs().max()) > 0.1


@pytest.fixture(scope="module")
def full(finish, assign):
    """One process, all at once."""
    return finish(assign("dpo", peft=FULL, n_epochs=3, micro_batch_size=8, learning_rate=1e-4, checkpoints=2))


def sequence_logps(model, asked, answer):
    with torch.no_grad():
        out = model(torch.tensor([asked + answer])).logits[0, len(asked) - 1 : -1].log_softmax(-1)
    return out.gather(1, torch.tensor(answer)[:, None])[:, 0]


@pytest.mark.deepspeed
def test_a_full_run_ends_in_weights_that_are_the_policy(full, model_path, tiny_llama):
    manifest = full.manifest()
    assert (manifest.kind, manifest.rank, manifest.base_model) == ("merged", None, "tiny")
    assert full.losses()[0] == pytest.approx(math.log(2), abs=1e-6)
    assert full.losses()[-1] < 0.65
    names = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {f"merged/{name}" for name in names} <= set(manifest.files)
    policy = AutoModelForCausalLM.from_pretrained(full.out / "merged")
    pairs = json.loads((full.out / "token_masks.json").read_text())["pairs"]
    for pair in pairs[:5]:
        ours, start = (sequence_logps(m, pair["prompt_ids"], pair["chosen"]["ids"]) for m in (policy, tiny_llama()))
        assert pair["chosen"]["log_ratio"] == pytest.approx((ours - start).tolist(), abs=2e-5)
    tokenizer = AutoTokenizer.from_pretrained(full.out / "merged")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(model_path).chat_template


@pytest.mark.deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_train_whole_models_as_one_does(full, finish, assign, stage):
    how = {"n_epochs": 3, "micro_batch_size": 2, "learning_rate": 1e-4, "zero_stage": stage, "head_memory_mb": 0.01}
    spread = finish(assign("dpo", peft=FULL, **how), ranks=2)
    assert spread.losses() == pytest.approx(full.losses(), rel=2e-5)
    ours, theirs = (AutoModelForCausalLM.from_pretrained(a.out / "merged") for a in (spread, full))
    assert torch.allclose(logits(ours), logits(theirs), atol=2e-4)
