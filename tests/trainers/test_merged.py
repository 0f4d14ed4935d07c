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
