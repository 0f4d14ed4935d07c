"""What is no plain adapter: what it starts from, what trains, and the weights it leaves."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from trainers import merged
from trainers.arguments import parameter_groups
from trainers.errors import Unusable
from trainers.learner import Learner
from trainers.merged import Merged
from trainers.objectives import DPO, SparsePO
from trainers.policy import base_of, load_policy, load_start
from trainers.probe import choose
from trainers.rows import ATTENTION
from trainers.start import FrozenStart

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


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)) + kind["type"])
def test_the_start_of_every_adapter_is_the_policy_without_it(assign, rows, kind):
    policy = load_policy(assign("dpo", peft=kind), torch.float32)
    learner = Learner(policy, DPO(), choose(base_of(policy)).layout)
    row = learner.layout.collate(rows)
    before = learner.reference(row).states
    moved(learner)
    assert torch.equal(learner.reference(row).states, before)
    assert float(learner.completions(row).log_ratio().detach().abs().max()) > 0.01


@pytest.mark.parametrize("held", ["nothing", "head", "model"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_start_of_a_whole_policy_is_never_what_has_trained(
    assign, rows, tiny_llama, byte_tokenizer, tmp_path, held, tied
):
    tiny_llama(tie_word_embeddings=tied).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    asked = assign("dpo", peft=FULL, model_path=tmp_path)
    policy = load_policy(asked, torch.float32)
    start = FrozenStart(policy, lambda: load_start(asked, torch.float32))
    learner = Learner(policy, SparsePO(), choose(policy).layout, start)
    row = learner.layout.collate(rows)
    before = learner.reference(row).states
    expected = dense_log_probs(load_start(asked, torch.float32), rows)
    weights = sum(weight.numel() * 4 for weight in policy.parameters())
    assert start.begin(held) == {"nothing": 0, "head": 260 * 64 * 4, "model": weights}[held]
    moved(learner)
    assert torch.equal(learner.reference(row).states, before)
    batch = learner.completions(row)
    assert batch.ref_logp.tolist() == pytest.approx(expected, abs=1e-4)
    assert batch.logp.tolist() == pytest.approx(dense_log_probs(policy, rows), abs=1e-4)
    assert float(batch.log_ratio().detach().abs().max()) > 0.1
    trained = {name for name, weight in learner.named_parameters() if weight.requires_grad}
    assert not any(name.startswith("start.") for name in trained)
    assert {name for name in trained if not name.startswith("objective")} == {
        f"policy.{name}" for name, _ in policy.named_parameters()
    }


def sequence_logps(model, asked, answer):
    with torch.no_grad():
        out = model(torch.tensor([asked + answer])).logits[0, len(asked) - 1 : -1].log_softmax(-1)
    return out.gather(1, torch.tensor(answer)[:, None])[:, 0]


def dense_log_probs(model, rows) -> list[float]:
    """By one plain sequence after the other; chosen answers first."""
    model.set_attn_implementation("sdpa")
    found = []
    for leaf in (0, 1):
        for row in rows:
            found += sequence_logps(model, row.prompt.tolist(), row.answers[leaf].ids.tolist()).tolist()
    model.set_attn_implementation(ATTENTION)
    return found


def test_a_rate_is_the_methods_for_a_lora_times_what_trains(assign):
    def rate(kind, **asked):
        return assign("dpo", peft=kind, **({"learning_rate": None} | asked)).spec.learning_rate()

    kinds = {"lora": 1e-4, "full": 1e-5, "ia3": 3e-3, "oft": 1e-4, "vera": 1e-3}
    assert {kind: pytest.approx(rate({"type": kind})) for kind in kinds} == kinds
    assert rate(FULL, learning_rate_multiplier=0.5) == pytest.approx(5e-6)
    assert rate(FULL, learning_rate=3e-5) == 3e-5


def test_vectors_do_not_decay(assign):
    policy = load_policy(assign("dpo", peft=FULL), torch.float32)
    learner = Learner(policy, DPO(weight_decay=0.1), choose(policy).layout)
    groups = {group["weight_decay"]: group["params"] for group in parameter_groups(learner, learner.objective)}
    assert all(weight.ndim == 2 for weight in groups[0.1])
    assert len(groups[0.0]) == 5, "two norms in each of two blocks, and the last one"


def test_a_setting_that_peft_refuses_is_told_as_one(assign):
    with pytest.raises(Unusable, match="no layer of the model is called 'c_attn'"):
        load_policy(assign("dpo", peft={"type": "vera", "target_modules": ["c_attn"]}), torch.float32)


def test_large_models_are_written_in_shards_with_their_index(assign, tmp_path, monkeypatch):
    asked = assign("dpo", peft=FULL)
    policy = load_policy(asked, torch.float32)
    monkeypatch.setattr(merged, "SHARD", "100KB")
    Merged.of(policy, keep=True).write(tmp_path / "merged", asked)
    assert len(list((tmp_path / "merged").glob("model-*-of-*.safetensors"))) > 1
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), logits(policy))


def test_weights_are_published_in_the_precision_of_the_model_started_from(assign, tiny_llama, byte_tokenizer, tmp_path):
    tiny_llama().bfloat16().save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    asked = assign("dpo", peft=FULL, model_path=tmp_path / "base")
    policy = moved(load_policy(asked, torch.float32))
    Merged.of(policy, keep=True).write(tmp_path / "merged", asked)
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(loaded.lm_head.weight, policy.lm_head.weight.bfloat16())
    assert (tmp_path / "merged" / "config.json").read_text() == (tmp_path / "base" / "config.json").read_text()


def test_ranks_that_write_nothing_keep_nothing(assign):
    policy = load_policy(assign("dpo", peft=FULL), torch.float32)
    held = Merged.of(policy, keep=False)
    assert (held.state, held.is_finite()) == ({}, True)
    torch.nn.init.constant_(policy.lm_head.weight, math.nan)
    assert not Merged.of(policy, keep=False).is_finite()
