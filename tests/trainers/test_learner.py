"""From padded ids to per-pair losses, against all logits of two separate models, one unpadded sequence at a time."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from trainers.data.examples import Example
from trainers.layouts import TreeLayout
from trainers.learner import Learner
from trainers.objectives import DPO, Objective, SparsePO, Supervised
from trainers.policy import load_policy
from trainers.probe import choose
from trainers.rows import tree_row as collate


def randomised(module: nn.Module, *, std: float) -> None:
    draw = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data += std * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)


@pytest.fixture
def make(assign):
    """A Learner in float64, moved away from its start unless told otherwise."""

    def learner(objective: Objective, *, moved: bool = True, dtype: torch.dtype = torch.float64) -> Learner:
        torch.manual_seed(0)
        policy = load_policy(assign("dpo"), torch.float32)
        made = Learner(policy, objective, choose(policy.get_base_model()).layout).to(dtype)
        assert made.layout == TreeLayout()
        if moved:
            randomised(made, std=0.05)
        return made

    return learner


def dense(learner: Learner, rows: list[Example], objective: Objective) -> Tensor:
    """The objective's definition from all logits of a merged policy and the plain base."""
    policy = copy.deepcopy(learner.policy).merge_and_unload().double()
    reference = copy.deepcopy(learner.policy).unload().double()
    policy.set_attn_implementation("sdpa")
    reference.set_attn_implementation("sdpa")
    losses = []
    for row in rows:
        s, price = 0.0, 0.0
        for answer, sign in ((row.answers[0].ids, 1), (row.answers[1].ids, -1)):
            ids, first = torch.cat([row.prompt, answer])[None], len(row.prompt) - 1
            log_pi = policy(ids).logits[0, first:-1].log_softmax(-1)
            out = reference(ids, output_hidden_states=True)
            log_ref = out.logits[0, first:-1].log_softmax(-1)
            states = torch.stack([state[0, first:-1] for state in out.hidden_states[1:]])
            m_u, m_d, charged = masks(learner, objective, states, len(answer))
            rho = (log_pi - log_ref).gather(1, answer[:, None])[:, 0]
            kl = (log_ref.exp() * (log_ref - log_pi)).sum(-1)
            s = s + sign * (m_u * rho + m_d * kl).sum()
            price = price + charged
        losses.append((1 + (-objective.beta * s).exp()).log() + price)
    return torch.stack(losses)


def masks(learner: Learner, objective: Objective, states: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    ones, zeros = torch.ones(count).double(), torch.zeros(count).double()
    if isinstance(objective, DPO):
        return ones, zeros, zeros.sum()
    if objective.mask == "ones":
        return ones, ones, count * torch.tensor(objective.l1_reward + objective.l1_kl).double()
    networks = learner.objective_modules
    m_u, m_d = networks.reward(states), (networks.kl or networks.reward)(states)
    shares = 0.5 if networks.kl is None else 1.0
    return m_u, m_d, shares * (objective.l1_reward * m_u + objective.l1_kl * m_d).sum()


OBJECTIVES = [
    DPO(beta=0.5),
    SparsePO(beta=0.5, mask="ones"),
    SparsePO(beta=0.5, l1_reward=0.01, l1_kl=0.03),
    SparsePO(beta=0.5, mask="learned_independent", l1_reward=0.01, l1_kl=0.03),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o.type}-{getattr(o, 'mask', '')}")
def test_losses_and_gradients_are_the_dense_ones(make, rows, objective):
    learner = make(objective)
    losses, _, metrics = learner(collate(rows))
    expected = dense(learner, rows, objective)
    assert torch.allclose(losses, expected, atol=1e-9, rtol=0)
    assert float((losses.detach() - math.log(2)).abs().min()) > 1e-3
    assert metrics["rewards/margins"].shape == (5,)


def test_gradients_are_finite_differences(make, rows):
    learner = make(SparsePO(mask="learned_independent", l1_reward=0.01))
    batch = collate(rows[:2])  # Llama's norms compute in float32, which limits the step and the agreement
    trained = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    learner(batch)[0].sum().backward()
    for name, parameter in trained.items():
        place = parameter.grad.abs().argmax()
        slope, step = parameter.grad.flatten()[place].item(), 1e-3
        values = []
        for move in (step, -2 * step, step):
            parameter.data.flatten()[place] += move
            values.append(learner(batch)[0].sum().item())
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=0.02, abs=1e-4), name


@pytest.mark.parametrize("objective", OBJECTIVES[:3], ids=lambda o: f"{o.type}-{getattr(o, 'mask', '')}")
def test_a_fresh_adapter_starts_at_log_2(make, rows, objective):
    bare = objective.model_copy(update={"l1_reward": 0.0, "l1_kl": 0.0} if isinstance(objective, SparsePO) else {})
    losses, *_ = make(bare, moved=False, dtype=torch.float32)(collate(rows))
    assert torch.allclose(losses, torch.full((5,), math.log(2)), atol=1e-6, rtol=0)


def test_neighbours_do_not_change_a_pairs_loss(make, rows):
    learner = make(OBJECTIVES[3])
    together, *_ = learner(collate(rows))
    alone = torch.cat([learner(collate([row]))[0] for row in rows])
    assert torch.allclose(together, alone, atol=1e-12)


def test_logits_computed_again_give_the_same_losses_and_gradients(make, rows):
    results = []
    for budget in (256.0, 12 * 2 * 260 * 8 / 2**20):  # all kept; twelve tokens of 260 words, policy and reference
        learner = make(OBJECTIVES[3].model_copy(update={"head_memory_mb": budget}))
        losses, _, metrics = learner(collate(rows))
        losses.sum().backward()
        results.append([losses.detach(), *(p.grad for p in learner.parameters() if p.requires_grad)])
        tokens = sum(len(answer) for row in rows for answer in row.answers)
        said = metrics["memory/head_mb"].tolist()
        assert said == [pytest.approx(min(budget, tokens * 2 * 260 * 8 / 2**20), rel=0.4)]
        assert said[0] <= budget
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*results, strict=True))


def test_checkpointed_blocks_give_the_same_gradients(make, rows):
    gradients = []
    for checkpointing in (False, True):
        learner = make(OBJECTIVES[2]).train()
        if checkpointing:
            learner.policy.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        learner(collate(rows))[0].sum().backward()
        gradients.append([p.grad for p in learner.parameters() if p.requires_grad])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*gradients, strict=True))


def test_only_the_adapter_and_the_objectives_modules_have_gradients(make, rows):
    learner = make(SparsePO())
    learner(collate(rows))[0].sum().backward()
    with_gradient = {name for name, p in learner.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, p in learner.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith("objective_modules.") for name in with_gradient)


def test_what_the_objective_does_not_need_is_not_computed(make, rows):
    learner = make(DPO())
    batch = learner.completions(collate(rows))
    assert batch.ref_states is None
    assert batch.activation is None
    assert make(SparsePO(mask="ones")).completions(collate(rows)).ref_states is None
    alone = [replace(row, answers=row.answers[:1]) for row in rows]
    without = make(Supervised())
    without.reference = None
    assert torch.equal(without(collate(alone))[1], -batch.logp[batch.segment < 5])


def test_a_sampled_kl_is_that_pairs_true_one_and_leaves_the_gradient_alone(make, rows):
    gradients = []
    for sample in (None, 7):
        learner = make(DPO())
        losses, _, metrics = learner(collate(rows), sample=sample)
        losses.sum().backward()
        gradients.append([p.grad for p in learner.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    batch = make(SparsePO(mask="ones")).completions(collate(rows))
    chosen, rejected = batch.total(batch.kl).chunk(2)
    assert torch.allclose(metrics["sampled/kl/chosen"], chosen[7 % 5], atol=1e-12)
    policy, reference = (copy.deepcopy(learner.policy).merge_and_unload(), copy.deepcopy(learner.policy).unload())
    ids = torch.cat([rows[2].prompt, rows[2].answers[0].ids])[None]
    log_pi, log_ref = (m(ids).logits[0, len(rows[2].prompt) - 1 : -1].log_softmax(-1) for m in (policy, reference))
    reverse = (log_pi.exp() * (log_pi - log_ref)).sum()
    assert float(metrics["sampled/reverse_kl/chosen"]) == pytest.approx(float(reverse), abs=1e-9)
    assert torch.allclose(metrics["sampled/kl/rejected"], rejected[7 % 5], atol=1e-12)
    assert bool((chosen > 0).all())


def test_dropout_in_the_adapter_leaves_the_reference_alone(assign, rows):
    torch.manual_seed(0)
    policy = load_policy(assign("dpo", peft={"lora_dropout": 0.5}), torch.float32)
    learner = Learner(policy, DPO(), choose(policy.get_base_model()).layout).train()
    losses, *_ = learner(collate(rows))
    assert torch.allclose(losses, torch.full((5,), math.log(2)), atol=1e-6)


def test_a_checkpoint_without_frozen_weights_loads_and_one_that_lacks_a_trained_one_does_not(make):
    learner = make(SparsePO())
    trained = {name: p.detach() for name, p in learner.named_parameters() if p.requires_grad}
    learner.load_state_dict(trained)
    trained.popitem()
    with pytest.raises(RuntimeError, match="the checkpoint does not fit: missing"):
        learner.load_state_dict(trained)
