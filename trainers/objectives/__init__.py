"""The union is the registry: an objective is added by one file and its name here."""

from trainers.objectives.base import Completions, Loss, Needs, Objective
from trainers.objectives.dpo import DPO
from trainers.objectives.sparsepo import SparsePO

AnyObjective = DPO | SparsePO

__all__ = ["DPO", "AnyObjective", "Completions", "Loss", "Needs", "Objective", "SparsePO"]
