"""Which architectures take trees: by their config and by what the loaded model computes; the others train all the same."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from trainers import probe
from trainers.layouts import LinearLayout, TreeLayout
from trainers.learner import Learner
from trainers.objectives import DPO, SparsePO
from trainers.policy import load_policy
from trainers.rows import ATTENTION

SHAPE = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "initializer_range": 0.2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 0,
}
WINDOW = {"sliding_window": 3}
HYBRID = {"layer_types": ["conv", "full_attention"]}


def build(kind: str, **changes):
    torch.manual_seed(3)
    config = CONFIG_MAPPING[kind](**(SHAPE | changes))
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("llama", {}), ("qwen2", {}), ("qwen3", {}), ("mistral", {"sliding_window": None}), ("gemma", {}), ("olmo2", {})],
)
def test_full_attention_takes_trees(kind, changes):
    model = build(kind, **changes)
    chosen = probe.choose(model)
    assert chosen.layout == TreeLayout()
    assert chosen.describe() == "tree rows (prompts once, the probe agrees with separate sequences)"
    assert model.config._attn_implementation == ATTENTION


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("mistral", WINDOW, "its attention sees a window of 3 tokens"),
        ("qwen2", WINDOW | {"use_sliding_window": True, "max_window_layers": 1}, "its layers are full_attention, sli"),
        ("gemma3_text", WINDOW, "its layers are sliding_attention"),
        ("lfm2", HYBRID, "its layers are conv, full_attention"),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, "its attention scores are capped"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "its rotary embedding depends on the length",
        ),
        (
            "gpt_oss",
            {"layer_types": ["full_attention"] * 2, "num_local_experts": 2, "num_experts_per_tok": 1},
            "it does not run as trees: its attention uses s_aux",
        ),
        ("bloom", {}, "its attention cannot be replaced"),
    ],
)
def test_any_other_architecture_is_linear_and_keeps_its_own_attention(kind, changes, why):
    model = build(kind, **changes)
    own = model.config._attn_implementation
    chosen = probe.choose(model)
    assert chosen.layout == LinearLayout()
    assert chosen.why.startswith(why)
    assert model.config._attn_implementation == own


def test_the_probe_finds_what_the_config_does_not_say(monkeypatch):
    """A hybrid whose config is believed: its convolutions run over the leaves' borders, and the states show it."""
    monkeypatch.setattr(probe, "_not_plain", lambda config: None)
    for kind, changes in (("lfm2", HYBRID), ("mistral", WINDOW)):
        model = build(kind, **changes)
        chosen = probe.choose(model)
        assert chosen.layout == LinearLayout()
        assert "away from separate sequences" in chosen.why or "sliding_window" in chosen.why
        assert model.config._attn_implementation != ATTENTION


@pytest.mark.parametrize(("kind", "changes"), [("mistral", WINDOW), ("lfm2", HYBRID)])
def test_windows_and_hybrids_train_on_the_dense_losses(assign, rows, tmp_path, kind, changes):
    build(kind, **changes).save_pretrained(tmp_path)
    policy = load_policy(assign("dpo", model_path=tmp_path), torch.float32)
    chosen = probe.choose(policy.get_base_model())
    assert chosen.layout == LinearLayout()
    learner = Learner(policy, SparsePO(mask="ones", beta=0.5), chosen.layout).double()
    for parameter in (p for p in learner.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1)
    found, *_ = learner(chosen.layout.collate(rows, least=7))
    merged, plain = copy.deepcopy(policy).merge_and_unload(), copy.deepcopy(policy).unload()
    expected = torch.stack([dense(merged, plain, row) for row in rows])
    assert torch.allclose(found, expected, atol=1e-5)
    assert float((found.detach() - math.log(2)).abs().min()) > 1e-3


def dense(policy, reference, row) -> torch.Tensor:
    rewards = []
    for answer in (row.answers[0].ids, row.answers[1].ids):
        ids, first = torch.cat([row.prompt, answer])[None], len(row.prompt) - 1
        log_pi, log_ref = (model(ids).logits[0, first:-1].double().log_softmax(-1) for model in (policy, reference))
        rho = (log_pi - log_ref).gather(1, answer[:, None]).sum()
        rewards.append(0.5 * (rho + (log_ref.exp() * (log_ref - log_pi)).sum()))
    return -torch.nn.functional.logsigmoid(rewards[0] - rewards[1])


def test_idle_sequences_change_neither_losses_nor_gradients(assign, rows):
    results = []
    for pairs in (0, 9):
        torch.manual_seed(0)
        learner = Learner(load_policy(assign("dpo"), torch.float32), DPO(), LinearLayout())
        row = learner.layout.collate(rows, pairs)
        assert len(row["places"]) == 2 * max(pairs, len(rows))
        losses, *_ = learner(row)
        losses.sum().backward()
        results.append([losses.detach(), *(p.grad for p in learner.parameters() if p.requires_grad)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
