"""SparsePO's mask network: a weight ≥ 0 for each token from the reference's states (2410.05102, `simple_all`)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Init = Literal["one", "paper"]


class Mask(nn.Module):
    """m = ReLU(Σ_l q_l ReLU(w_l · LN(h_l) + b_l)); one LayerNorm shared by all L blocks.

    Init `one`: w = 0, b = 1, q = 1/L in multiples of 2⁻²⁰ that sum to 1, so m is exactly 1 everywhere, in any order
    of summation, and every parameter that shapes it has a gradient. Init `paper`: w, q ~ N(0, 0.02²), b = 0, as the
    release's missing weights were initialised.
    """

    def __init__(self, layers: int, width: int, init: Init = "one") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(torch.zeros(layers, width))
        self.bias = nn.Parameter(torch.ones(layers))
        self.mixer = nn.Parameter(_equal_shares(layers))
        if init == "paper":
            nn.init.normal_(self.weight, std=0.02)
            nn.init.normal_(self.mixer, std=0.02)
            nn.init.zeros_(self.bias)

    def forward(self, states: Tensor) -> Tensor:
        """(L, N, d) states of the reference → (N,) mask."""
        heads = torch.einsum("lnd,ld->ln", self.norm(states.to(self.weight.dtype)), self.weight) + self.bias[:, None]
        return torch.relu(self.mixer @ torch.relu(heads))


def _equal_shares(parts: int) -> Tensor:
    shares = torch.full((parts,), float(2**20 // parts))
    shares[0] += 2**20 % parts
    return shares / 2**20


@torch.no_grad()
def activation_mask(states: Tensor, segment: Tensor, count: int) -> Tensor:
    """MaPO (2410.05102): (L, N, d) reference states after each block → (N,) mask in [0, 1], without a gradient.

    Each block's state is averaged over its width and scaled over the tokens of each of the `count` completions, the
    lowest to 0 and the highest to 1; then the blocks are averaged. Where a completion's tokens do not differ (it may
    have one only) they count fully. The z-norm of the release is left out: scaling undoes it.
    """
    level = states.to(torch.promote_types(states.dtype, torch.float32)).mean(-1)
    places = segment.expand_as(level)
    low, high = (
        level.new_zeros(len(level), count).scatter_reduce(1, places, level, reduce, include_self=False)
        for reduce in ("amin", "amax")
    )
    low, spread = low.gather(1, places), (high - low).gather(1, places)
    return torch.where(spread > 0, (level - low) / spread, 1.0).mean(0)


class Masks(nn.Module):
    """The reward mask and the KL mask: one network for both, or one each."""

    def __init__(self, layers: int, width: int, *, shared: bool, init: Init = "one") -> None:
        super().__init__()
        self.reward = Mask(layers, width, init)
        self.kl = None if shared else Mask(layers, width, init)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """(L, N, d) → (m_u, m_d), each (N,); the same tensor twice where shared."""
        reward = self.reward(states)
        return reward, reward if self.kl is None else self.kl(states)
