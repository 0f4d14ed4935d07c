"""Metrics are means over entries, not over batches."""

from __future__ import annotations

import torch

from trainers.means import Means


def test_unequal_batches_count_by_their_entries():
    means = Means(torch.device("cpu"))
    means.add({"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([4.0])})
    means.add({"a": torch.tensor([10.0])})
    assert means.take() == {"a": 4.0, "b": 4.0}


def test_a_weight_of_nought_counts_nothing_and_taking_starts_anew():
    means = Means(torch.device("cpu"))
    means.add({"a": torch.tensor([1.0])})
    means.add({"a": torch.tensor([99.0]), "b": torch.tensor([99.0])}, weight=0)
    assert means.take() == {"a": 1.0}
    assert means.take() == {}
