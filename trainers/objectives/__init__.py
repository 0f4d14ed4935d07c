"""The union is the registry: an objective is added by one file and its name here."""

from trainers.objectives.asft import ASFT
from trainers.objectives.base import Completions, Loss, Needs, Objective
from trainers.objectives.dft import DFT
from trainers.objectives.dpo import DPO
from trainers.objectives.kto import KTO
from trainers.objectives.sparsepo import SparsePO
from trainers.objectives.supervised import Supervised

AnyObjective = DPO | SparsePO | KTO | Supervised | DFT | ASFT

__all__ = [
    "ASFT",
    "DFT",
    "DPO",
    "KTO",
    "AnyObjective",
    "Completions",
    "Loss",
    "Needs",
    "Objective",
    "SparsePO",
    "Supervised",
]
