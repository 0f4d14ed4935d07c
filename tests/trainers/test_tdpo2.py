"""TDPO2, the relative of SparsePO that leaves the chosen answer's KL alone, against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainers.likelihood import token_scores
from trainers.objectives import DPO, Completions, SparsePO

LENGTHS = (3, 1, 4, 2, 5, 1)  # three chosen answers, then three rejected ones
SEGMENT = torch.repeat_interleave(torch.arange(6), torch.tensor(LENGTHS))
N, VOCABULARY, LAYERS, WIDTH = len(SEGMENT), 11, 3, 8
TARGETS = torch.arange(N) * 7 % VOCABULARY


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    """Of the policy and the reference, (N, V), float64."""
    draw = torch.Generator().manual_seed(1)
    policy, reference = torch.randn(2, N, VOCABULARY, generator=draw, dtype=torch.float64)
    return policy.requires_grad_(), reference


def completions(policy: Tensor, reference: Tensor) -> Completions:
    scores = token_scores(torch.clone, policy, reference, TARGETS, kl="reference_to_policy", rows=N)
    states = torch.randn(LAYERS, N, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ref_logp = token_scores(torch.clone, reference, None, TARGETS, kl="none", rows=N).logp
    return Completions(scores.logp, ref_logp, SEGMENT, len(LENGTHS), scores.kl, states)


def test_tdpo2_has_its_definition_and_leaves_the_chosen_kl_alone(logits):
    policy, reference = logits
    for alpha in (0.0, 0.5, 1.0):
        found = SparsePO(mask="ones", tdpo=2, alpha=alpha, beta=0.7).loss(completions(policy, reference)).per_example
        batch = completions(policy, reference)
        sums, kls = batch.total(batch.log_ratio()), batch.total(batch.kl)
        s = sums[:3] - sums[3:] - alpha * (kls[3:] - kls[:3].detach())
        expected = -nn.functional.logsigmoid(0.7 * s)
        assert torch.allclose(found, expected, atol=1e-12)
        ours, theirs = (torch.autograd.grad(loss.sum(), policy)[0] for loss in (found, expected))
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_tdpo2_lies_between_dpo_and_tdpo1(logits):
    policy, reference = logits
    none, whole = (
        SparsePO(mask="ones", tdpo=2, alpha=alpha).loss(completions(policy, reference)).per_example
        for alpha in (0.0, 1.0)
    )
    first = SparsePO(mask="ones").loss(completions(policy, reference)).per_example
    assert torch.equal(none, DPO().loss(completions(policy, reference)).per_example)
    assert torch.equal(whole, first)
    grads = [torch.autograd.grad(loss.sum(), policy)[0] for loss in (whole, first)]
    assert float((grads[0] - grads[1])[SEGMENT < 3].abs().max()) > 1e-3
    assert torch.allclose(grads[0][SEGMENT >= 3], grads[1][SEGMENT >= 3], atol=1e-14)


@pytest.mark.parametrize("settings", [{"tdpo": 2}, {"tdpo": 2, "mask": "mapo"}, {"mask": "ones", "alpha": 0.3}])
def test_tdpo2_takes_no_mask_and_tdpo1_no_alpha(settings):
    with pytest.raises(ValueError, match=r"tdpo 2"):
        SparsePO(**settings)
