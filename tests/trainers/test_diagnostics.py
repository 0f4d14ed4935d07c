"""Ranking, difficulty and drift against the papers' figures; the warning against histories written out."""

from __future__ import annotations

import math

import pytest
import torch

from trainers.drift import STRETCH, both_fall, first_fall
from trainers.objectives import DPO, Completions, SparsePO
from trainers.objectives.base import ranking_metrics

REF_CHOSEN, REF_REJECTED = [-10.0, -12.0, -30.0], [-11.0, -10.0, -10.0]


def batch(chosen: list[float], rejected: list[float]) -> Completions:
    """One-token answers: the policy's log-probabilities over the published reference's."""
    logp = torch.tensor(chosen + rejected).double()
    return Completions(logp, torch.tensor(REF_CHOSEN + REF_REJECTED).double(), torch.arange(6), 6, 0 * logp)


def test_the_reference_ranks_one_of_three_published_pairs_right():
    start = batch(REF_CHOSEN, REF_REJECTED)
    for objective in (DPO(beta=0.1), SparsePO(mask="ones", beta=0.1)):
        metrics = objective.loss(start).metrics
        assert metrics["ranking/accuracy"].tolist() == [1, 0, 0]
        assert metrics["ranking/difficulty"].tolist() == pytest.approx([-0.1, 0.2, 2.0])


@pytest.mark.parametrize(("beta", "ideal"), [(0.1, [1, 1, 1]), (0.5, [1, 1, 0]), (5.0, [1, 0, 0])])
def test_a_pair_is_ideally_ranked_right_up_to_its_break_even_beta(beta, ideal):
    metrics = DPO(beta=beta).loss(batch(REF_CHOSEN, REF_REJECTED)).metrics
    c = [rejected - chosen for chosen, rejected in zip(REF_CHOSEN, REF_REJECTED, strict=True)]
    assert [float(math.log(0.999 / 0.001) / beta - each > 0) for each in c] == ideal
    assert metrics["ranking/idealised_accuracy"].tolist() == ideal
    assert metrics["ranking/alignment_gap"].tolist() == [ideal[0] - 1, ideal[1], ideal[2]]


@pytest.mark.parametrize(("beta", "threshold"), [(0.1, 0.598139), (0.5, 0.313262), (1.0, 0.126928)])
def test_where_the_answers_tie_the_loss_is_the_published_threshold_of_the_difficulty(beta, threshold):
    tied = Completions(torch.full((2,), -9.0), torch.tensor([-12.0, -10.0]), torch.arange(2), 2)
    found = DPO(beta=beta).loss(tied)
    assert float(found.metrics["ranking/difficulty"]) == pytest.approx(2 * beta, rel=1e-6)
    assert float(found.per_example) == pytest.approx(math.log1p(math.exp(-2 * beta)), rel=1e-6)
    assert {0.1: 0.598139, 0.5: 0.313262, 1.0: 0.126928}[beta] == threshold
    assert float(found.per_example) == pytest.approx(threshold, abs=1e-6)
    assert found.metrics["ranking/accuracy"].tolist() == [1]  # a tie is right


def test_drifts_are_the_log_ratios_and_saturation_is_what_is_left_of_the_force():
    metrics = ranking_metrics(torch.tensor([-11.0, -16.0]), torch.tensor([-1.0, -6.0]), 0.1)
    assert (metrics["drift/chosen"].item(), metrics["drift/rejected"].item()) == (-1, -6)
    assert metrics["drift/chosen_fell"].item() == 1
    assert metrics["drift/saturation"].item() == pytest.approx(1 / (1 + math.exp(0.5)))
    assert ranking_metrics(torch.zeros(2), torch.zeros(2), 0.1)["drift/saturation"].item() == 0.5


def history(chosen: list[float], rejected: list[float]) -> list[dict[str, float]]:
    return [{"drift/chosen": c, "drift/rejected": r} for c, r in zip(chosen, rejected, strict=True)]


FALLING = [-0.1 * step for step in range(1, STRETCH + 1)]


def test_both_fall_only_after_a_whole_stretch_of_both():
    assert both_fall(history(FALLING, FALLING))
    assert not both_fall(history(FALLING[1:], FALLING[1:]))
    assert not both_fall(history([0.1, *FALLING[1:]], FALLING))
    assert not both_fall(history([-each for each in FALLING], FALLING))
    assert not both_fall(history(FALLING[::-1], FALLING))  # below the reference, but on the way back
    assert not both_fall([{"loss": 1.0}] * STRETCH)


def test_the_fall_is_told_once():
    longer = [-0.1 * step for step in range(1, 3 * STRETCH)]
    records = history(longer, longer)
    assert [end for end in range(len(records) + 1) if first_fall(records[:end])] == [STRETCH]
