"""A plugin of vLLM's, loaded inside CPU engines: adapters by matrix products over the rows of each.

vLLM 0.32 gathers every token's own copy of its adapter, and rows without one, whose index is -1, get the adapter of
the last slot: once every slot is taken, the base model answers as somebody's policy in any batch it shares with one
(vllm-project/vllm#48421, #49656). Written against `vllm/lora/ops/torch_ops/lora_ops.py`; shapes: n rows, s slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def register() -> None:
    """Put our functions where vLLM looks for its own; more than once does no harm."""
    from vllm.lora.ops import torch_ops
    from vllm.lora.ops.torch_ops import lora_ops

    for function in (bgmv_shrink, bgmv_expand, bgmv_expand_slice):
        setattr(lora_ops, function.__name__, function)
        setattr(torch_ops, function.__name__, function)


def bgmv_shrink(
    inputs: Tensor,
    lora_b_weights: Tensor,
    output_tensor: Tensor,
    lora_indices_tensor: Tensor,
    scaling: float = 1.0,
) -> None:
    """(n, i) by A (s, r, i) into the first r columns of the output, zero where there is no adapter."""
    columns = output_tensor[:, : lora_b_weights.shape[-2]]
    columns.zero_()
    _add(scaling * inputs, lora_b_weights, columns, lora_indices_tensor)


def bgmv_expand(
    inputs: Tensor,
    lora_b_weights: Tensor,
    output_tensor: Tensor,
    lora_indices_tensor: Tensor,
    add_inputs: bool = True,
) -> None:
    """(n, r) by B (s, o, r) onto the first o columns of the output, as many as it has."""
    columns = output_tensor[:, : lora_b_weights.shape[-2]]
    if not add_inputs:
        columns.zero_()
    _add(inputs, lora_b_weights, columns, lora_indices_tensor)


def bgmv_expand_slice(
    inputs: Tensor,
    lora_b_weights: Tensor,
    output_tensor: Tensor,
    lora_indices_tensor: Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """(n, r) by B (s, o, r) onto o = `slice_size` columns from `slice_offset` on."""
    columns = output_tensor[:, slice_offset : slice_offset + slice_size]
    if not add_inputs:
        columns.zero_()
    _add(inputs, lora_b_weights, columns, lora_indices_tensor)


def _add(inputs: Tensor, weights: Tensor, columns: Tensor, slots: Tensor) -> None:
    """columns[k] += inputs[k] · weights[slots[k]]ᵀ for every k with a slot; some versions stack (s, 1, o, i)."""
    for slot in set(slots.tolist()) - {-1}:
        rows = (slots == slot).nonzero()[:, 0]
        weight = weights[slot].reshape(weights.shape[-2:]).to(columns.dtype)
        columns[rows] += (inputs[rows].to(columns.dtype) @ weight.T)[:, : columns.shape[1]]
