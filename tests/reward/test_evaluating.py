"""Accuracy with its interval, and the choice of pairs, by hand."""

import random

import pytest

from reward.annotating import Chosen, Selection, choose
from reward.evaluating import Judged, accuracy, by_subset, wilson


def test_ties_count_half_and_soft_labels_their_share():
    judged = [Judged(2, 1), Judged(1, 2), Judged(1, 1), Judged(2, 1, preference=0.75), Judged(1, 2, preference=0.75)]
    found = accuracy(judged)
    assert found.accuracy == pytest.approx((1 + 0 + 0.5 + 0.75 + 0.25) / 5)
    assert (found.pairs, found.ties, found.mean_margin) == (5, 1, pytest.approx(0))


def test_the_interval_is_wilsons():
    """81 of 263: (0.2553, 0.3662) in Newcombe 1998, table I."""
    low, high = wilson(81 / 263, 263)
    assert (low, high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert wilson(0, 20) == (0, pytest.approx(0.1611, abs=5e-5))
    assert wilson(1, 20)[1] == 1


def test_the_interval_holds_the_truth_nineteen_times_of_twenty():
    chance = random.Random(1)  # noqa: S311
    shares = [sum(chance.random() < 0.7 for _ in range(80)) / 80 for _ in range(2000)]
    inside = sum(low <= 0.7 <= high for low, high in (wilson(share, 80) for share in shares))
    assert 0.93 < inside / 2000 < 0.97


def test_every_subset_is_judged_by_itself():
    judged = [Judged(2, 1, "chat"), Judged(1, 2, "code"), Judged(2, 1, "code")]
    assert {name: (found.accuracy, found.pairs) for name, found in by_subset(judged).items()} == {
        "chat": (1, 1),
        "code": (0.5, 2),
    }


def test_the_best_is_chosen_and_the_worst_rejected():
    assert choose(["a", "b", "c", "d"], [1, 3, 0, 2], Selection(), seed=0) == Chosen(1, 2)
    assert choose(["a", "b", "c"], [3, 3, 1], Selection(), seed=0) == Chosen(0, 2)


def test_a_random_rejected_is_any_that_scores_less_and_comes_again_with_the_seed():
    found = [choose(["a", "b", "c", "d"], [3, 1, 3, 0], Selection(rejected="random"), seed=seed) for seed in range(30)]
    assert {pair.rejected for pair in found} == {1, 3}
    assert {pair.best for pair in found} == {0}
    assert found == [
        choose(["a", "b", "c", "d"], [3, 1, 3, 0], Selection(rejected="random"), seed=seed) for seed in range(30)
    ]


@pytest.mark.parametrize(
    ("texts", "scores", "how", "reason"),
    [
        (["a", "a"], [1, 2], {}, "equal_texts"),
        ([], [], {}, "equal_texts"),
        (["a", "b", "c"], [1, 1, 1], {}, "ties"),
        (["a", "b"], [1, 0.95], {"min_margin": 0.1}, "ties"),
        (["a" * 10, "b"], [1, 0], {"max_length_ratio": 2}, "lengths"),
    ],
)
def test_a_prompt_without_a_pair_says_why(texts, scores, how, reason):
    assert choose(texts, scores, Selection(**how), seed=0) == reason


def test_equal_texts_count_once_and_length_control_takes_the_worst_of_like_length():
    assert choose(["a", "a", "b"], [1, 9, 0], Selection(), seed=0) == Chosen(0, 2)
    texts, scores = ["best!", "x", "mid.", "long" * 9], [3, 0, 1, 0.5]
    assert choose(texts, scores, Selection(max_length_ratio=1.5), seed=0) == Chosen(0, 2)
