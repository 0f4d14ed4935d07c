"""ρ + K without logits: equal to the explicit sum in value and gradient, exactly 0 at the start, refused elsewhere."""

from __future__ import annotations

import math

import pytest
import torch

from trainers.collate import MicroBatches
from trainers.learner import Learner
from trainers.objectives import DPO, SparsePO
from trainers.policy import load_policy
from trainers.probe import choose
from trainers.reference import ReferenceStore, Shape
from trainers.rows import Row
from trainers.schedule import MicroBatch

STEP = MicroBatch((3, 0, 4, 1), step_examples=4, step_tokens=9)


@pytest.fixture
def stored(assign, rows, tmp_path):
    """A learner and a row whose reference was stored when the policy was still the reference."""

    def make(objective: SparsePO, *, moved: bool = True, dtype: torch.dtype = torch.float64) -> tuple[Learner, Row]:
        torch.manual_seed(0)
        policy = load_policy(assign("dpo"), torch.float32)
        learner = Learner(policy, objective, choose(policy.get_base_model()).layout).to(dtype)
        needs = objective.needs()
        shape = Shape(1 + 2 * needs.ref_states + learner.closed, 64, dtype, mask=bool(needs.activations))
        store = ReferenceStore(tmp_path, rows, shape)
        store.create()
        for place, row in enumerate(rows):
            store.write([place], learner.reference(learner.layout.collate([row])))
        for parameter in (p for p in learner.parameters() if p.requires_grad and moved):
            parameter.data += 0.05 * torch.randn_like(parameter)
        return learner, MicroBatches(rows, learner.layout, store)[STEP]["row"]

    return make


def explicit(learner: Learner, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    """The same loss from log-ratios and KLs of all logits, and ρ + K."""
    batch = learner.completions(row)
    return learner.objective.loss(batch, learner.objective_modules).per_example, batch.log_ratio() + batch.kl


@pytest.mark.parametrize("mask", ["learned_common", "mapo", "ones"])
def test_value_and_gradient_are_the_explicit_ones(stored, mask):
    learner, row = stored(SparsePO(mask=mask, beta=0.5, l1_reward=0.01))
    assert learner.closed
    trained = [p for p in learner.parameters() if p.requires_grad]
    found, _, metrics = learner(row)
    assert learner.kept_mb == 0
    assert "logps/chosen" not in metrics
    expected, _ = explicit(learner, row)
    assert torch.allclose(found, expected, atol=1e-7)  # the numbers beside the states are float32
    ours, theirs = (torch.autograd.grad(loss.sum(), trained) for loss in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert float((one - other).norm()) <= 1e-6 * float(other.norm()) + 1e-12
    assert float((found - math.log(2)).abs().min()) > 1e-3


def test_rewards_are_those_of_the_explicit_sum(stored):
    learner, row = stored(SparsePO(mask="ones", beta=0.5))
    _, _, metrics = learner(row)
    _, advantage = explicit(learner, row)
    sums = torch.zeros(8).double().index_add(0, row["segment"], advantage)
    assert torch.allclose(metrics["rewards/chosen"], 0.5 * sums[:4], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_adapter_starts_at_log_2(stored, dtype):
    learner, row = stored(SparsePO(mask="ones"), moved=False, dtype=dtype)
    losses, *_ = learner(row)
    assert losses.tolist() == pytest.approx([math.log(2)] * 4, abs=1e-6 if dtype == torch.float32 else 2e-2)


def test_what_the_sum_does_not_tell_is_sampled(stored):
    learner, row = stored(SparsePO(mask="ones", beta=0.5))
    _, _, metrics = learner(row, sample=6)
    batch = learner.completions(row)
    for name, vector in (
        ("logps", batch.logp),
        ("drift", batch.log_ratio()),
        ("kl", batch.kl),
        ("reverse_kl", batch.reverse_kl),
    ):
        for leaf, side in enumerate(("chosen", "rejected")):
            total = batch.total(vector)[4 * leaf + 6 % 4]
            assert float(metrics[f"sampled/{name}/{side}"]) == pytest.approx(float(total), abs=1e-9)


def test_two_masks_tdpo2_zero_3_and_a_trained_head_need_the_logits(stored):
    for objective in (SparsePO(mask="learned_independent"), SparsePO(mask="ones", tdpo=2), SparsePO(zero_stage=3)):
        learner, _ = stored(objective)
        assert not learner.closed
    learner, _ = stored(DPO())
    assert not learner.closed
    learner, _ = stored(SparsePO())
    learner.policy.get_base_model().get_output_embeddings().weight.requires_grad_(True)
    assert not learner.closed
