"""Metrics as sums and counts, kept on the device and reduced over the ranks once per logging step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed

#: a vector, whose mean is logged, or (sums, counts), whose ratio is
Metric = Tensor | tuple[Tensor, Tensor]


class Means:
    """Mean of all entries of all ranks since the last `take`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}

    def add(self, vectors: Mapping[str, Metric], *, weight: float = 1.0) -> None:
        """Count each vector's entries; a weight of 0 makes the name known and counts nothing."""
        for name, metric in vectors.items():
            sums, counts = metric if isinstance(metric, tuple) else (metric, torch.ones_like(metric))
            both = torch.stack([sums.detach().double().sum(), counts.detach().double().sum()]) * weight
            self._sums[name] = self._sums.get(name, 0) + both

    def take(self) -> dict[str, float]:
        """The means by name; every rank must call it, having added the same names."""
        names = sorted(self._sums)
        if not names:
            return {}
        table = torch.stack([self._sums[name] for name in names])
        if distributed.is_initialized():
            distributed.all_reduce(table)
        self._sums = {}
        return {name: total / count for name, (total, count) in zip(names, table.tolist(), strict=True) if count}
