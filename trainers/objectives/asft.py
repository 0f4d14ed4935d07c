"""ASFT, anchored supervised fine-tuning (2509.23753, eq. 6 and its released code)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from trainers.objectives.supervised import Anchored


class ASFT(Anchored):
    """DFT anchored to the reference: −sg(p_t) log p_t + λ K_t, the KL over the whole vocabulary at each scored token.

    The paper writes KL(π ‖ π_ref) and its code computes KL(π_ref ‖ π): `kl_direction` names both, by formula.
    """

    type: ClassVar[str] = "asft"
    reweighted: ClassVar[bool] = True

    kl_weight: float = Field(
        0.1, ge=0, le=100, description="λ: pull of the KL; 0.1 in the released code, 0.05 in the paper's tables."
    )
