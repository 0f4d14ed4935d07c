"""Per-token log-probabilities and KL from hidden states in one joint pass; logits are kept within a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

#: KL(π_ref ‖ π) or KL(π ‖ π_ref) with a gradient; `metric` is the first without one
Kl = Literal["none", "metric", "reference_to_policy", "policy_to_reference"]
#: a piece of tokens is at most this share of those whose logits may be kept
SHARE = 4
#: tokens whose logits are a few MB
CACHED_ROWS = 16


@dataclass(frozen=True)
class TokenScores:
    """(N,) each, float32 at least, in nats."""

    logp: Tensor
    kl: Tensor | None  #: K_t = Σ_v π_ref(v) (log π_ref(v) − log π(v)), or Σ_v π(v) (log π(v) − log π_ref(v))
    correct: Tensor | None = None  #: 1 where the target is the likeliest token, where asked for
    kept: int = 0  #: tokens whose logits are kept for the backward pass


#: states (n, d) → logits (n, V)
Head = Callable[[Tensor], Tensor]


def token_scores(  # noqa: PLR0913 - one pass gives all that is asked of it
    heads: Head | tuple[Head, Head],
    states: Tensor,
    ref_states: Tensor | None,
    targets: Tensor,
    *,
    kl: Kl,
    rows: int,
    most: int = 0,
    accuracy: bool = False,
) -> TokenScores:
    """Score targets (N,) from the policy's last states and, for a KL, the reference's, (N, d) each, piece by piece.

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
    compared = None if kl == "none" else ref_states
    ref_pieces = [None] * pieces if compared is None else torch.tensor_split(compared, pieces)
    split = (torch.tensor_split(states, pieces), ref_pieces, torch.tensor_split(targets, pieces))
    for place, (here, ref_here, labels) in enumerate(zip(*split, strict=True)):
        given = (*both, here, ref_here, labels, kl, accuracy)
        if training and place >= kept_pieces:
            parts.append(checkpoint(_score, *given, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_score(*given))
            kept += len(labels) * training
    logp, divergence, correct = (torch.cat(column) for column in zip(*parts, strict=True))
    return TokenScores(logp, None if kl == "none" else divergence, correct if accuracy else None, kept)


@torch.no_grad()
def reduced(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    reduce: Callable[[Tensor], Tensor],
    *,
    rows: int,
    most: int = 0,
) -> Tensor:
    """`reduce`, from (n, V) logits to (n, …), of states (N, d), with the logits of at most `rows` tokens at once."""
    pieces = max(1, ceil(max(most, len(states)) / max(1, rows)))
    return torch.cat([reduce(_wide(head(piece))) for piece in torch.tensor_split(states, pieces)])


def kept_bytes(vocabulary: int, element_size: int, *, kl: Kl, capped: bool) -> int:
    """What is kept of a token: its logits, the reference's for a KL with gradient, one more copy where a cap is."""
    return vocabulary * element_size * (1 + (kl not in ("none", "metric")) + capped)


def _score(
    head: Head,
    ref_head: Head,
    states: Tensor,
    ref_states: Tensor | None,
    targets: Tensor,
    kl: Kl,
    accuracy: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        reference = None if ref_states is None else ref_head(ref_states)
    logits = head(states)
    logp, divergence = Joint.apply(logits, reference, targets, kl)  # type: ignore[no-untyped-call]
    correct = (logits.argmax(-1) == targets if accuracy else torch.zeros_like(targets)).float()
    return logp, divergence, correct


class Joint(torch.autograd.Function):
    """log π(y) and a KL from both logits z, (n, V) each, in float32 at least.

    With A = log Σ exp z: log π(y) = z_y − A. KL(π_ref ‖ π) = E_ref[z_ref − z] − A_ref + A and KL(π ‖ π_ref) =
    E_π[z − z_ref] − A + A_ref are 0 exactly where z is z_ref. Gradients on z: ∂log π(y) = onehot(y) − π,
    ∂KL(π_ref ‖ π) = π − π_ref, ∂KL(π ‖ π_ref) = π (z − z_ref − E_π[z − z_ref]). They are written over the logits, the
    largest tensors of a step: one backward pass only.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, reference: Tensor | None, targets: Tensor, kl: Kl) -> tuple[Tensor, Tensor]:
        """(n,) each; the second is zeros where no KL is asked for, and then `reference` is None."""
        parts = [
            _scores(logits[tile], None if reference is None else reference[tile], targets[tile], kl)
            for tile in _tiles(logits)
        ]
        logp, divergence, partition, ref_partition = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.kl = kl
        slopes = kl not in ("none", "metric")
        ctx.save_for_backward(logits, partition, targets, *((reference, ref_partition) if slopes else (None, None)))
        if not slopes:
            ctx.mark_non_differentiable(divergence)
        return logp, divergence

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        """∂loss/∂z, in the logits' own precision."""
        logits, partition, targets, reference, ref_partition = ctx.saved_tensors
        g_logp, g_kl = (slope[:, None] for slope in slopes)
        for tile in _tiles(logits):
            z = _wide(logits[tile])
            if ctx.kl == "policy_to_reference":
                apart = z - _wide(reference[tile])
            p = z.sub_(partition[tile, None]).exp_()
            if ctx.kl == "reference_to_policy":
                grad = p.mul_((g_kl - g_logp)[tile])
                p_ref = (_wide(reference[tile]) - ref_partition[tile, None]).exp_()
                grad.sub_(p_ref.mul_(g_kl[tile]))
            elif ctx.kl == "policy_to_reference":
                apart.sub_(torch.linalg.vecdot(p, apart)[:, None])
                grad = p.mul_(apart.mul_(g_kl[tile]).sub_(g_logp[tile]))
            else:
                grad = p.mul_(-g_logp[tile])
            grad.scatter_add_(1, targets[tile, None], g_logp[tile])
            if grad.dtype != logits.dtype:
                logits[tile] = grad
        return logits, None, None, None


def _scores(logits: Tensor, reference: Tensor | None, targets: Tensor, kl: Kl) -> tuple[Tensor, ...]:
    """log π(y), the KL, A and A_ref, (n,) each; zeros for what there is not."""
    z = _wide(logits)
    partition = z.logsumexp(-1)
    logp = z.gather(1, targets[:, None])[:, 0] - partition
    if reference is None:
        return logp, torch.zeros_like(logp), partition, torch.zeros_like(logp)
    z_ref = _wide(reference)
    ref_partition = z_ref.logsumexp(-1)
    if kl == "policy_to_reference":
        p = (z - partition[:, None]).exp_()
        return logp, torch.linalg.vecdot(p, z - z_ref) - partition + ref_partition, partition, ref_partition
    p_ref = (z_ref - ref_partition[:, None]).exp_()
    return logp, torch.linalg.vecdot(p_ref, z_ref - z) - ref_partition + partition, partition, ref_partition


def _tiles(logits: Tensor) -> list[slice]:
    """Rows that are worked on at once: on CPU so few that they stay in its cache from one operation to the next."""
    size = CACHED_ROWS if logits.device.type == "cpu" else max(1, len(logits))
    return [slice(start, start + size) for start in range(0, max(1, len(logits)), size)]


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
