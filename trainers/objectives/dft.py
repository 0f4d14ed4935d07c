"""DFT, dynamic fine-tuning (Wu et al. 2025, 2508.05629)."""

from __future__ import annotations

from typing import ClassVar

from trainers.objectives.supervised import TokenObjective


class DFT(TokenObjective):
    """SFT with each token weighted by its own probability: −sg(p_t) log p_t, whose gradient is that of −p_t."""

    type: ClassVar[str] = "dft"
    reweighted: ClassVar[bool] = True
