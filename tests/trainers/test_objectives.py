"""DPO and SparsePO against closed forms, published vectors, finite differences and the full-logit definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from trainers.likelihood import token_scores
from trainers.objectives import DPO, Completions, Needs, SparsePO

LENGTHS = (3, 1, 4, 2, 5, 1)  # three chosen answers, then three rejected ones
SEGMENT = torch.repeat_interleave(torch.arange(6), torch.tensor(LENGTHS))
N, VOCABULARY, LAYERS, WIDTH = len(SEGMENT), 11, 3, 8
TARGETS = torch.arange(N) * 7 % VOCABULARY


class Given(nn.Module):
    """Masks that are simply there, in the place of the networks."""

    def __init__(self, m_u: Tensor, m_d: Tensor) -> None:
        super().__init__()
        self.m_u, self.m_d = m_u, m_d

    def forward(self, _: Tensor) -> tuple[Tensor, Tensor]:
        return self.m_u, self.m_d


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    """Of the policy and the reference, (N, V), float64."""
    draw = torch.Generator().manual_seed(1)
    policy, reference = torch.randn(2, N, VOCABULARY, generator=draw, dtype=torch.float64)
    return policy.requires_grad_(), reference


@pytest.fixture
def masks() -> tuple[Tensor, Tensor]:
    m_u, m_d = torch.rand(2, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return m_u, m_d


def completions(policy: Tensor, reference: Tensor) -> Completions:
    scores = token_scores(torch.clone, policy, reference, TARGETS, kl="reference_to_policy", rows=N)
    states = torch.randn(LAYERS, N, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ref_logp = token_scores(torch.clone, reference, None, TARGETS, kl="none", rows=N).logp
    return Completions(scores.logp, ref_logp, SEGMENT, len(LENGTHS), scores.kl, states)


def dense(policy: Tensor, reference: Tensor, m_u: Tensor, m_d: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Sequence by sequence from all probabilities: each pair's s = u − δ, and its loss."""
    pi, ref = policy.softmax(-1), reference.softmax(-1)
    sums = []
    for completion in range(len(LENGTHS)):
        total = policy.new_zeros(())
        for t in (completion == SEGMENT).nonzero()[:, 0].tolist():
            rho = (pi[t, TARGETS[t]] / ref[t, TARGETS[t]]).log()
            divergence = sum(ref[t, v] * (ref[t, v] / pi[t, v]).log() for v in range(VOCABULARY))
            total = total + m_u[t] * rho + m_d[t] * divergence
        sums.append(total)
    s = torch.stack([sums[pair] - sums[pair + 3] for pair in range(3)])
    return s, (1 + (-beta * s).exp()).log()


def test_dpo_gives_the_published_losses():
    # pytorch/torchtune tests/torchtune/rlhf/loss/test_dpo_loss.py at bd2a0fc (BSD-3-Clause)
    chosen, rejected = torch.tensor([-0.5, -10.0, -1.0]), torch.tensor([-0.1, -30.0, -21.0])
    ref_chosen, ref_rejected = torch.tensor([-0.5, -10.1, -0.1]), torch.tensor([-0.1, -20.1, -0.1])
    batch = Completions(torch.cat([chosen, rejected]), torch.cat([ref_chosen, ref_rejected]), torch.arange(6), 6)
    published = torch.tensor([math.log(2), 0.31326168751822286, 0.1269280110429726])
    assert torch.allclose(DPO(beta=0.1).loss(batch).per_example[:1], published[:1], atol=1e-6)
    logits = torch.tensor([0.0, 10.0, 20.0])
    deltas = torch.cat([logits, torch.zeros(3)])
    loss = DPO(beta=0.1).loss(Completions(deltas, torch.zeros(6), torch.arange(6), 6)).per_example
    assert torch.allclose(loss, published, atol=1e-4, rtol=1e-5)
    margins = DPO(beta=0.1).loss(batch).metrics["rewards/margins"]
    assert torch.allclose(margins, 0.1 * ((chosen - rejected) - (ref_chosen - ref_rejected)))


def test_dpo_is_its_definition_over_all_probabilities(logits):
    batch = completions(*logits)
    ones, zeros = torch.ones(2, N).double()[0], torch.zeros(N).double()
    _, expected = dense(*logits, ones, zeros, beta=0.3)
    assert torch.allclose(DPO(beta=0.3).loss(batch).per_example, expected, atol=1e-12, rtol=0)


def test_dpos_gradient_on_each_token_is_beta_sigma_of_the_wrong_order(logits):
    batch = completions(*(each.detach() for each in logits))
    logp = batch.logp.clone().requires_grad_()
    moved = Completions(logp, batch.ref_logp, SEGMENT, 6)
    DPO(beta=0.3).loss(moved).per_example.sum().backward()
    sums = moved.total(moved.log_ratio()).detach()
    force = 0.3 * torch.sigmoid(-0.3 * (sums[:3] - sums[3:]))
    assert torch.allclose(logp.grad, torch.cat([-force, force])[SEGMENT], atol=1e-12, rtol=0)


def test_swapping_the_answers_mirrors_dpos_loss(logits):
    batch = completions(*logits)
    swapped = Completions(batch.logp, batch.ref_logp, (SEGMENT + 3) % 6, 6)
    loss, mirrored = DPO(beta=0.3).loss(batch), DPO(beta=0.3).loss(swapped)
    margins = loss.metrics["rewards/margins"]
    assert torch.allclose(mirrored.per_example - loss.per_example, margins, atol=1e-12)


@pytest.mark.parametrize("objective", [DPO(), SparsePO(mask="ones"), SparsePO(), SparsePO(mask="learned_independent")])
def test_at_the_reference_the_loss_is_log_2_and_no_mask_is_pushed(objective, logits):
    _, reference = logits
    batch = completions(reference.clone().requires_grad_(), reference)
    modules = objective.modules(LAYERS, WIDTH)
    if modules is not None:
        modules.double()
    loss = objective.loss(batch, modules).per_example
    assert torch.allclose(loss, torch.full((3,), math.log(2)).double(), atol=1e-15)
    if modules is not None:
        loss.sum().backward()
        assert all(float(p.grad.abs().max()) < 1e-15 for p in modules.parameters() if p.grad is not None)


def test_at_the_reference_the_kl_has_no_gradient(logits, masks):
    _, reference = logits
    m_u, m_d = masks
    grads = []
    for kl_mask in (m_d, torch.zeros_like(m_d)):
        policy = reference.clone().requires_grad_()
        SparsePO().loss(completions(policy, reference), Given(m_u, kl_mask)).per_example.sum().backward()
        grads.append(policy.grad)
    assert torch.allclose(grads[0], grads[1], atol=1e-15)
    assert float(grads[0].abs().max()) > 1e-3


@pytest.mark.parametrize("mask", ["learned_common", "learned_independent"])
def test_sparsepo_is_its_definition_over_all_probabilities(logits, masks, mask):
    m_u, m_d = masks if mask == "learned_independent" else (masks[0], masks[0])
    objective = SparsePO(mask=mask, beta=0.7)
    s, expected = dense(*logits, m_u, m_d, beta=0.7)
    found = objective.loss(completions(*logits), Given(m_u, m_d))
    assert torch.allclose(found.per_example, expected, atol=1e-12, rtol=0)
    assert torch.allclose(found.metrics["rewards/margins"], 0.7 * s, atol=1e-12, rtol=0)
    unmasked = SparsePO(mask="ones", beta=0.7).loss(completions(*logits)).per_example
    assert float((unmasked - expected).detach().abs().min()) > 1e-3  # what dropped the mask would not pass


def test_a_fresh_mask_is_tdpo1_bit_for_bit(logits):
    policy, reference = (each.detach().float() for each in logits)
    results = []
    for mask in ("ones", "learned_common", "learned_independent"):
        objective = SparsePO(mask=mask)
        z = policy.clone().requires_grad_()
        batch = completions(z, reference)
        batch = Completions(batch.logp, batch.ref_logp, SEGMENT, 6, batch.kl, batch.ref_states.float())
        loss = objective.loss(batch, objective.modules(LAYERS, WIDTH)).per_example
        loss.sum().backward()
        results.append((loss.detach(), z.grad))
    ones = torch.ones(N).double()
    _, tdpo1 = dense(*logits, ones, ones, beta=0.1)
    assert torch.allclose(results[0][0].double(), tdpo1.detach(), atol=1e-6)
    assert all(torch.equal(loss, results[0][0]) and torch.equal(grad, results[0][1]) for loss, grad in results)


def test_without_the_kl_mask_sparsepo_is_dpo_bit_for_bit(logits):
    batch = completions(*logits)
    found = SparsePO(beta=0.3).loss(batch, Given(torch.ones(N).double(), torch.zeros(N).double())).per_example
    assert torch.equal(found, DPO(beta=0.3).loss(batch).per_example)


def test_masks_of_nought_leave_log_2_and_no_gradient(logits):
    zeros = torch.zeros(N).double()
    loss = SparsePO().loss(completions(*logits), Given(zeros, zeros)).per_example
    loss.sum().backward()
    assert torch.equal(loss, -nn.functional.logsigmoid(torch.zeros(3).double()))
    assert float(logits[0].grad.abs().max()) == 0


def test_only_the_product_of_beta_and_masks_matters(logits, masks):
    batch = completions(*logits)
    one = SparsePO(mask="learned_independent", beta=0.8).loss(batch, Given(*masks)).per_example
    other = SparsePO(mask="learned_independent", beta=0.2).loss(batch, Given(*(4 * m for m in masks))).per_example
    assert torch.allclose(one, other, atol=1e-14)


def test_the_masks_gradients_are_the_force_times_log_ratio_and_kl(logits, masks):
    batch = completions(*(each.detach() for each in logits))
    m_u, m_d = (mask.clone().requires_grad_() for mask in masks)
    found = SparsePO(mask="learned_independent", beta=0.7).loss(batch, Given(m_u, m_d))
    found.per_example.sum().backward()
    force = 0.7 * torch.sigmoid(-found.metrics["rewards/margins"])
    signed = torch.cat([-force, force])[SEGMENT]
    assert torch.allclose(m_u.grad, signed * batch.log_ratio(), atol=1e-12)
    assert torch.allclose(m_d.grad, signed * batch.kl, atol=1e-12)
    assert bool((m_d.grad[SEGMENT < 3] <= 0).all())
    assert bool((m_d.grad[SEGMENT >= 3] >= 0).all())


def test_a_shared_mask_pushes_logits_from_the_references_distribution_to_the_token(logits, masks):
    policy, reference = logits
    found = SparsePO(beta=0.7).loss(completions(policy, reference), Given(masks[0], masks[0]))
    found.per_example.sum().backward()
    force = 0.7 * torch.sigmoid(-found.metrics["rewards/margins"])
    direction = one_hot(TARGETS, VOCABULARY) - reference.softmax(-1)
    expected = (torch.cat([-force, force])[SEGMENT] * masks[0])[:, None] * direction
    assert torch.allclose(policy.grad, expected, atol=1e-12)
    assert torch.allclose(policy.grad.sum(-1), torch.zeros(N).double(), atol=1e-12)


def test_independent_masks_push_logits_by_their_two_directions(logits, masks):
    policy, reference = logits
    m_u, m_d = masks
    found = SparsePO(mask="learned_independent", beta=0.7).loss(completions(policy, reference), Given(m_u, m_d))
    found.per_example.sum().backward()
    force = 0.7 * torch.sigmoid(-found.metrics["rewards/margins"])
    pi, ref = policy.detach().softmax(-1), reference.softmax(-1)
    direction = m_u[:, None] * (one_hot(TARGETS, VOCABULARY) - pi) + m_d[:, None] * (pi - ref)
    assert torch.allclose(policy.grad, torch.cat([-force, force])[SEGMENT][:, None] * direction, atol=1e-12)


def test_log_ratio_plus_kl_is_nought_on_average_under_the_reference(logits):
    policy, reference = (each.detach() for each in logits)
    every = [
        token_scores(torch.clone, policy, reference, torch.full((N,), v), kl="reference_to_policy", rows=N)
        for v in range(VOCABULARY)
    ]
    sums = torch.stack([s.logp + s.kl for s in every], dim=1) - reference.log_softmax(-1)
    assert torch.allclose((reference.softmax(-1) * sums).sum(-1), torch.zeros(N).double(), atol=1e-12)
    # rho + K without any normaliser of the policy
    shift = policy - reference
    direct = shift - (reference.softmax(-1) * shift).sum(-1, keepdim=True)
    assert torch.allclose(sums, direct, atol=1e-12)


def test_a_constant_added_to_a_positions_logits_changes_nothing(logits, masks):
    policy, reference = logits
    constants = torch.arange(N).double()[:, None]
    plain = SparsePO().loss(completions(policy, reference), Given(*masks)).per_example
    moved = SparsePO().loss(completions(policy + constants, reference - 2 * constants), Given(*masks)).per_example
    assert torch.allclose(plain, moved, atol=1e-12)


def test_each_penalty_is_a_sum_over_both_answers_and_a_shared_mask_pays_once(logits, masks):
    batch = completions(*logits)
    m_u, m_d = masks

    def price(mask: str, given: Given, **l1: float) -> Tensor:
        with_it = SparsePO(mask=mask, **l1).loss(batch, given).per_example
        return with_it - SparsePO(mask=mask).loss(batch, given).per_example

    norm_u, norm_d = ((lambda s: s[:3] + s[3:])(batch.total(m)) for m in (m_u, m_d))
    shared = price("learned_common", Given(m_u, m_u), l1_reward=0.25, l1_kl=0.25)
    assert torch.allclose(shared, 0.25 * norm_u, atol=1e-12)
    own = price("learned_independent", Given(m_u, m_d), l1_reward=0.25, l1_kl=0.5)
    assert torch.allclose(own, 0.25 * norm_u + 0.5 * norm_d, atol=1e-12)


def test_tokens_may_lie_in_any_order_but_each_counts_for_its_own_answer(logits, masks):
    batch = completions(*logits)
    loss = SparsePO().loss(batch, Given(*masks)).per_example
    order = torch.randperm(N, generator=torch.Generator().manual_seed(4))
    shuffled = Completions(batch.logp[order], batch.ref_logp[order], SEGMENT[order], 6, batch.kl[order])
    assert torch.allclose(SparsePO().loss(shuffled, Given(*(m[order] for m in masks))).per_example, loss, atol=1e-12)
    displaced = Completions(batch.logp, batch.ref_logp, SEGMENT[order], 6, batch.kl)
    assert float((SparsePO().loss(displaced, Given(*masks)).per_example - loss).abs().max()) > 1e-2


def test_what_an_objective_reads_is_what_it_declares():
    assert DPO().needs() == Needs()
    assert SparsePO().needs() == Needs(kl="reference_to_policy", advantage=True, ref_states=True)
    assert SparsePO(mask="ones").needs() == Needs(kl="reference_to_policy", advantage=True)
    assert SparsePO(mask="ones", tdpo=2).needs() == Needs(kl="reference_to_policy")
    assert SparsePO(mask="learned_independent").needs() == Needs(kl="reference_to_policy", ref_states=True)


def test_token_weights_are_the_masks(logits, masks):
    batch = completions(*logits)
    assert SparsePO(mask="ones").token_weights(batch) == {}
    assert DPO().token_weights(batch) == {}
    assert list(SparsePO().token_weights(batch, Given(masks[0], masks[0]))) == ["mask"]
    weights = SparsePO(mask="learned_independent").token_weights(batch, Given(*masks))
    assert torch.equal(weights["mask"], masks[0])
    assert torch.equal(weights["kl_mask"], masks[1])
