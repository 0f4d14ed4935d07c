"""Adapters of CPU engines, row by row against plain products."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest
import torch

from service.serving.command import PLUGIN

SLOTS = torch.tensor([0, -1, 2, 2, -1, 1, 2])


@pytest.fixture(scope="module")
def plugin():
    sys.path.insert(0, str(PLUGIN))
    try:
        [entry] = importlib.metadata.entry_points(group="vllm.general_plugins", name="prefserve_lora")
        yield sys.modules[entry.load().__module__]
    finally:
        sys.path.remove(str(PLUGIN))


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return draw


def expected(inputs, weights, before):
    """Each row with its own adapter; those of -1 stay as they were."""
    rows = [
        old if slot < 0 else old + weights[slot].reshape(weights.shape[-2:]) @ row
        for row, slot, old in zip(inputs, SLOTS.tolist(), before, strict=True)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("stacked", [(3,), (3, 1)])
def test_shrink_is_zero_where_there_is_no_adapter(plugin, tensors, stacked):
    inputs, a, output = tensors(7, 6), tensors(*stacked, 4, 6), tensors(7, 5)
    padding = output[:, 4:].clone()
    plugin.bgmv_shrink(inputs, a, output, SLOTS, 0.5)
    torch.testing.assert_close(output[:, :4], 0.5 * expected(inputs, a, torch.zeros(7, 4, dtype=torch.float64)))
    assert torch.equal(output[:, 4:], padding)


@pytest.mark.parametrize("add", [True, False])
def test_expand_leaves_rows_without_an_adapter_alone(plugin, tensors, add):
    inputs, b, output = tensors(7, 4), tensors(3, 1, 6, 4), tensors(7, 6)
    before = output.clone() if add else torch.zeros_like(output)
    plugin.bgmv_expand(inputs, b, output, SLOTS, add)
    torch.testing.assert_close(output, expected(inputs, b, before))


def test_expand_takes_as_many_columns_as_the_output_has(plugin, tensors):
    inputs, b, output = tensors(7, 4), tensors(3, 1, 6, 4), tensors(7, 5)
    before = output.clone()
    plugin.bgmv_expand(inputs, b, output, SLOTS)
    torch.testing.assert_close(output, expected(inputs, b[:, :, :5], before))


@pytest.mark.parametrize("add", [True, False])
def test_a_slice_changes_its_own_columns_alone(plugin, tensors, add):
    inputs, b, output = tensors(7, 4), tensors(3, 1, 2, 4), tensors(7, 6)
    before = output.clone()
    plugin.bgmv_expand_slice(inputs, b, output, SLOTS, 3, 2, add)
    kept = before[:, 3:5] if add else torch.zeros(7, 2, dtype=torch.float64)
    torch.testing.assert_close(output[:, 3:5], expected(inputs, b, kept))
    assert torch.equal(output[:, :3], before[:, :3])
    assert torch.equal(output[:, 5:], before[:, 5:])
