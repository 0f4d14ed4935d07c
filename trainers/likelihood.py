"""Per-token log-probabilities and KL from hidden states in one joint pass; logits are kept within a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

#: `metric` computes the KL without a gradient
Kl = Literal["none", "metric", "gradient"]
#: a piece of tokens is at most this share of those whose logits may be kept
SHARE = 4


@dataclass(frozen=True)
class TokenScores:
    """(N,) each, float32 at least, in nats."""

    logp: Tensor
    ref_logp: Tensor
    kl: Tensor | None  #: K_t = Σ_v π_ref(v) (log π_ref(v) − log π(v))
    kept: int = 0  #: tokens whose logits are kept for the backward pass


#: states (n, d) → logits (n, V)
Head = Callable[[Tensor], Tensor]


def token_scores(
    heads: Head | tuple[Head, Head],
    states: Tensor,
    ref_states: Tensor,
    targets: Tensor,
    *,
    kl: Kl,
    rows: int,
    most: int = 0,
) -> TokenScores:
    """Score targets (N,) from the policy's and the reference's last states (N, d), piece by piece.

    `heads` map states (n, d) to logits (n, V): the policy's and the reference's, or one for both; they are called as
    they are, whatever they consist of. The logits of at most `rows` tokens are kept for the backward pass; those
    beyond have theirs computed again in it. `most` is the largest N of any rank: how often the heads are called
    depends on it and not on N, as ZeRO-3 needs.
    """
    both = heads if isinstance(heads, tuple) else (heads, heads)
    most = max(most, len(targets))
    pieces = ceil(most / max(1, rows // SHARE))
    kept_pieces = pieces if most <= rows else rows // ceil(most / pieces)
    training = torch.is_grad_enabled()
    parts, kept = [], 0
    split = (torch.tensor_split(column, pieces) for column in (states, ref_states, targets))
    for place, (here, ref_here, labels) in enumerate(zip(*split, strict=True)):
        given = (*both, here, ref_here, labels, kl)
        if training and place >= kept_pieces:
            parts.append(checkpoint(_score, *given, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_score(*given))
            kept += len(labels) * training
    logp, ref_logp, divergence = (torch.cat(column) for column in zip(*parts, strict=True))
    return TokenScores(logp, ref_logp, None if kl == "none" else divergence, kept)


def kept_bytes(vocabulary: int, element_size: int, *, kl: Kl, capped: bool) -> int:
    """What is kept of a token: its logits, the reference's for a KL with gradient, one more copy where a cap is."""
    return vocabulary * element_size * (1 + (kl == "gradient") + capped)


def _score(
    head: Head, ref_head: Head, states: Tensor, ref_states: Tensor, targets: Tensor, kl: Kl
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        reference = ref_head(ref_states)
    scores = Joint.apply(head(states), reference, targets, kl)  # type: ignore[no-untyped-call]
    return cast("tuple[Tensor, Tensor, Tensor]", scores)


class Joint(torch.autograd.Function):
    """log π(y), log π_ref(y) and K = KL(π_ref ‖ π) from both logits z, (n, V) each, in float32 at least.

    With A = log Σ exp z: log π(y) = z_y − A and K = E_ref[z_ref − z] − A_ref + A, which is 0 exactly where z is
    z_ref. Gradients on z: ∂log π(y) = onehot(y) − π, ∂K = π − π_ref.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, reference: Tensor, targets: Tensor, kl: Kl) -> tuple[Tensor, Tensor, Tensor]:
        """(n,) each; the last is log π_ref(y) again where no KL is asked for."""
        index = targets[:, None]
        z, z_ref = _wide(logits), _wide(reference)
        partition, ref_partition = z.logsumexp(-1), z_ref.logsumexp(-1)
        logp = z.gather(1, index)[:, 0] - partition
        ref_logp = z_ref.gather(1, index)[:, 0] - ref_partition
        divergence = ref_logp.clone()
        if kl != "none":
            p_ref = (z_ref - ref_partition[:, None]).exp_()
            divergence = torch.linalg.vecdot(p_ref, z_ref - z) - ref_partition + partition
        ctx.with_kl = kl == "gradient"
        kept = (reference, ref_partition) if ctx.with_kl else (None, None)
        ctx.save_for_backward(logits, partition, targets, *kept)
        ctx.mark_non_differentiable(ref_logp, *(() if ctx.with_kl else (divergence,)))
        return logp, ref_logp, divergence

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        """∂loss/∂z = g_logp (onehot − π) + g_K (π − π_ref), in the logits' own precision."""
        logits, partition, targets, reference, ref_partition = ctx.saved_tensors
        g_logp, _, g_kl = slopes
        grad = (_wide(logits) - partition[:, None]).exp_()
        grad.mul_((g_kl - g_logp if ctx.with_kl else -g_logp)[:, None])
        grad.scatter_add_(1, targets[:, None], g_logp[:, None])
        if ctx.with_kl:
            p_ref = (_wide(reference) - ref_partition[:, None]).exp_()
            grad.sub_(p_ref.mul_(g_kl[:, None]))
        return grad.to(logits.dtype), None, None, None


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
