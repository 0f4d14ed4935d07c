"""MaPO's masks: every activation of a tiny Llama computed by hand, scaled as the paper says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from trainers.activations import activation_mask, recording
from trainers.errors import Unusable
from trainers.layouts import LinearLayout
from trainers.learner import Learner
from trainers.objectives import Needs, SparsePO
from trainers.policy import load_policy
from trainers.probe import choose

LENGTHS = (3, 1, 4, 2)
SEGMENT = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
FAMILIES = ("mlp", "attention", "residual", "logits")


@pytest.fixture
def learn(assign):
    def make(**settings) -> Learner:
        torch.manual_seed(0)
        policy = load_policy(assign("dpo"), torch.float32)
        return Learner(policy, SparsePO(mask="mapo", **settings), choose(policy.get_base_model()).layout)

    return make


def by_hand(model, ids: Tensor) -> dict[str, list[Tensor]]:
    """A Llama's forward pass written out: each activation's mean over its width, (T,), by family."""
    llama, found = model.model, {family: [] for family in FAMILIES}
    hidden = llama.embed_tokens(ids[None])
    rotary = llama.rotary_emb(hidden, torch.arange(len(ids))[None])

    def note(family: str, *values: Tensor) -> None:
        found[family] += [value[0].mean(-1) for value in values]

    note("residual", hidden)
    for block in llama.layers:
        attention, mlp = block.self_attn, block.mlp
        normed = block.input_layernorm(hidden)
        q, k, v = (project(normed) for project in (attention.q_proj, attention.k_proj, attention.v_proj))
        note("attention", q, k, v)
        heads = [x.view(1, len(ids), -1, attention.head_dim).transpose(1, 2) for x in (q, k, v)]
        heads[0], heads[1] = apply_rotary_pos_emb(heads[0], heads[1], *rotary)
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
        mixed = mixed.transpose(1, 2).flatten(2)
        note("attention", mixed)
        delta = attention.o_proj(mixed)
        middle = hidden + delta
        second = block.post_attention_layernorm(middle)
        inside = torch.nn.functional.silu(mlp.gate_proj(second)) * mlp.up_proj(second)
        note("mlp", inside)
        change = mlp.down_proj(inside)
        hidden = middle + change
        note("residual", normed, delta, middle, second, change, hidden)
    final = llama.norm(hidden)
    note("residual", final)
    note("logits", model.lm_head(final))
    return found


def scaled(level: Tensor) -> Tensor:
    """As the release does it: z-normed over the answer's tokens, then from 0 to 1."""
    if len(level) == 1:
        return torch.ones(1)
    z = (level - level.mean()) / (level.std() + 1e-12)
    return (z - z.min()) / (z.max() - z.min())


@pytest.mark.parametrize("families", [FAMILIES, ("mlp",), ("attention", "logits"), ("residual",)])
@pytest.mark.parametrize("linear", [False, True])
def test_the_mask_is_every_activation_computed_by_hand(learn, rows, families, linear):
    learner = learn(mapo_families=families)
    base = learner.policy.get_base_model()
    if linear:
        base.set_attn_implementation("sdpa")
        learner.layout = LinearLayout()
    batch = learner.completions(learner.layout.collate(rows))
    expected = []
    with torch.no_grad(), learner.policy.disable_adapter():
        for leaf in range(2):
            for row in rows:
                ids, first = torch.cat([row.prompt, row.answers[leaf].ids]), len(row.prompt) - 1
                levels = by_hand(base, ids)
                each = [torch.stack([scaled(x[first:-1]) for x in levels[f]]).mean(0) for f in families]
                expected.append(torch.stack(each).mean(0))
    assert torch.allclose(batch.activation, torch.cat(expected), atol=2e-4)
    assert not batch.activation.requires_grad
    assert torch.equal(learner.objective.token_weights(batch)["mask"], batch.activation)


def test_listening_ends_with_the_pass(learn, rows):
    learner = learn()
    learner.completions(learner.layout.collate(rows))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in learner.policy.get_base_model().model.modules())


def test_a_family_that_the_architecture_does_not_have_is_refused_by_name():
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    with pytest.raises(Unusable, match="mapo_families") as refusal, recording(model, ("mlp",), torch.arange(1)):
        pass
    assert refusal.value.param == "method.sparsepo.hyperparameters.mapo_families"


def test_a_single_taps_mask_runs_from_0_to_1_in_each_answer():
    level = torch.randn(1, len(SEGMENT), generator=torch.Generator().manual_seed(6))
    mask = activation_mask({"mlp": level}, SEGMENT, 4)
    for completion, length in enumerate(LENGTHS):
        here = mask[completion == SEGMENT]
        assert (float(here.min()), float(here.max())) == ((0, 1) if length > 1 else (1, 1))
    assert torch.allclose(activation_mask({"mlp": 3 * level + 5}, SEGMENT, 4), mask, atol=1e-5)


def test_it_learns_no_mask_and_stores_none_of_the_blocks():
    objective = SparsePO(mask="mapo")
    assert objective.modules(3, 8) is None
    assert objective.needs() == Needs(kl="reference_to_policy", advantage=True, activations=FAMILIES)
