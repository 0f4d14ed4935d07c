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
