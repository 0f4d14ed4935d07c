"""Per-token log-probabilities and KL from hidden states, a few tokens at a time: never all logits at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

#: logits held at once: at most this many numbers (256 MiB in float32)
LOGITS_AT_ONCE = 2**26
#: `metric` computes the KL without a gradient
Kl = Literal["none", "metric", "gradient"]


@dataclass(frozen=True)
class TokenScores:
    """(N,) each, float32, in nats."""

    logp: Tensor
    ref_logp: Tensor
    kl: Tensor | None  #: K_t = Σ_v π_ref(v) (log π_ref(v) − log π(v))


def token_scores(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    ref_states: Tensor,
    targets: Tensor,
    *,
    kl: Kl,
    rows: int,
) -> TokenScores:
    """Score targets (N,) from the policy's and the reference's last states (N, d), `rows` tokens at a time.

    `head` maps states (n, d) to logits (n, V). Where more than one piece is needed, logits are computed again in
    the backward pass instead of being kept.
    """
    several = len(targets) > rows and torch.is_grad_enabled()
    parts = []
    for start in range(0, len(targets), rows):
        here = slice(start, start + rows)
        piece = (head, states[here], ref_states[here], targets[here], kl)
        parts.append(
            checkpoint(_score, *piece, use_reentrant=False, preserve_rng_state=False) if several else _score(*piece)
        )
    logp, ref_logp, divergence = (torch.cat(column) for column in zip(*parts, strict=True))
    return TokenScores(logp, ref_logp, None if kl == "none" else divergence)


def _score(
    head: Callable[[Tensor], Tensor], states: Tensor, ref_states: Tensor, targets: Tensor, kl: Kl
) -> tuple[Tensor, Tensor, Tensor]:
    index = targets[:, None]
    log_pi = _log_softmax(head(states))
    with torch.no_grad():
        log_ref = _log_softmax(head(ref_states))
    logp, ref_logp = log_pi.gather(1, index)[:, 0], log_ref.gather(1, index)[:, 0]
    if kl == "none":
        return logp, ref_logp, ref_logp
    other = log_pi if kl == "gradient" else log_pi.detach()
    return logp, ref_logp, (log_ref.exp() * (log_ref - other)).sum(-1)


def _log_softmax(logits: Tensor) -> Tensor:
    """In float32 at least, whatever the model computes in."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
