"""ρ_t + K_t without logits, where the output layer is frozen (2410.05102 with one mask for both terms)."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.likelihood import reduced
from trainers.policy import Head


def expected_embedding(head: Head, states: Tensor, *, rows: int) -> Tensor:
    """(N, d) last states of the reference → v = E_ref[W_v], its mean output embedding at each token, (N, d)."""
    weight = head.weight
    return reduced(head, states, lambda logits: logits.softmax(-1).to(weight.dtype) @ weight, rows=rows)


def shared_advantage(head: Head, targets: Tensor, states: Tensor, reference: Tensor) -> Tensor:
    """log π(y)/π_ref(y) + KL(π_ref ‖ π) = (h − h_ref) · (W_y − v), which is 0 exactly where h is h_ref: (N,).

    Both log-partitions cancel: with z = W h, ρ + K = (z_y − z_y,ref) − E_ref[z − z_ref]. `reference` holds h_ref
    first and v last; the gradient on the logits is onehot(y) − π_ref.
    """
    wide = torch.promote_types(states.dtype, torch.float32)
    moved = states.to(wide) - reference[0].to(wide)
    scores: Tensor = torch.linalg.vecdot(moved, head.weight[targets].to(wide) - reference[-1].to(wide))
    return scores / head.scaling
