"""The mask network: its definition, its starts, its gradients."""

from __future__ import annotations

import pytest
import torch

from trainers.masks import Mask, Masks

LAYERS, TOKENS, WIDTH = 3, 7, 16


@pytest.fixture
def states() -> torch.Tensor:
    return torch.randn(LAYERS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def mask() -> Mask:
    torch.manual_seed(2)
    mask = Mask(LAYERS, WIDTH).double()
    for parameter in mask.parameters():
        torch.nn.init.normal_(parameter, 0.3, 0.7)
    return mask


def test_a_mask_is_its_definition_token_by_token(mask, states):
    expected = []
    for n in range(TOKENS):
        total = 0.0
        for layer in range(LAYERS):
            h = states[layer, n]
            x = (h - h.mean()) / (h.var(unbiased=False) + mask.norm.eps).sqrt() * mask.norm.weight + mask.norm.bias
            head = (mask.weight[layer] @ x + mask.bias[layer]).detach()
            total += float(mask.mixer[layer].detach()) * max(0.0, float(head))
        expected.append(max(0.0, total))
    found = mask(states)
    assert torch.allclose(found, torch.tensor(expected).double(), atol=1e-12)
    assert bool((found > 0).any())


def test_its_gradients_are_finite_differences(mask, states):
    parameters = dict(mask.named_parameters())

    def run(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(mask, dict(zip(parameters, values, strict=True)), (states,))

    assert torch.autograd.gradcheck(run, tuple(parameters.values()), atol=1e-7)


def test_a_mask_starts_at_exactly_one_for_any_number_of_blocks():
    for layers in range(1, 129):
        assert torch.equal(Mask(layers, WIDTH)(torch.randn(layers, 50, WIDTH)), torch.ones(50))


def test_from_one_every_parameter_that_shapes_the_mask_can_move(states):
    fresh = Mask(LAYERS, WIDTH).double()
    fresh(states)[:4].sum().backward()
    assert all(float(getattr(fresh, name).grad.abs().max()) > 0 for name in ("weight", "bias", "mixer"))


def test_the_papers_start_is_small_and_often_zero(states):
    densities, means = [], []
    for seed in range(200):
        torch.manual_seed(seed)
        mask = Mask(LAYERS, WIDTH, "paper").double()(states).detach()
        densities.append(float((mask > 0).double().mean()))
        means.append(float(mask.mean()))
    assert max(means) < 0.1
    assert 0.1 < sum(densities) / len(densities) < 0.9


def test_a_shared_mask_is_one_network_and_independent_ones_are_two(states):
    shared = Masks(LAYERS, WIDTH, shared=True).double()
    m_u, m_d = shared(states)
    assert m_u is m_d
    own = Masks(LAYERS, WIDTH, shared=False).double()
    assert sum(p.numel() for p in own.parameters()) == 2 * sum(p.numel() for p in shared.parameters())


def test_half_precision_states_are_read_in_the_masks_precision(states):
    mask = Mask(LAYERS, WIDTH, "paper")
    assert mask(states.bfloat16()).dtype == torch.float32
