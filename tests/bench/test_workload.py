"""What both sides are given: the same tokens in the same order."""

from __future__ import annotations

import pytest

from bench.workload import LONGEST, MEANS, QUICK, USUAL, Pair, Scale, batches, draw_pairs, padding, tokenizer, words


@pytest.mark.parametrize("pairs", [8, 16, 64])
def test_lengths_have_the_means_that_are_asked_for(pairs):
    for lengths, means in MEANS.items():
        drawn = draw_pairs(Scale(8, 8, 1, 1, 1, 50, pairs=pairs), lengths)
        found = [sum(column) / pairs for column in zip(*(pair.lengths for pair in drawn), strict=True)]
        assert found == pytest.approx(means, rel=0.06), lengths  # two σ cut a little off the long ones


def test_no_pair_is_longer_than_the_model_or_than_trl_cuts():
    assert max(pair.longer for pair in draw_pairs(USUAL, "long")) <= LONGEST


def test_texts_become_the_tokens_that_were_drawn():
    encode = tokenizer(QUICK.vocab_size)
    for pair in draw_pairs(QUICK, "short"):
        text = words(pair.prompt) + words(pair.chosen) + "</s>"
        assert encode(text)["input_ids"] == [*pair.prompt, *pair.chosen]
        assert encode(words(pair.prompt))["input_ids"] == list(pair.prompt)


@pytest.mark.parametrize("order", ["shuffled", "grouped"])
def test_each_epoch_holds_every_pair_once_after_a_step_that_warms_up(order):
    pairs = draw_pairs(USUAL, "short")
    steps = batches(pairs, USUAL, order)
    assert len(steps) == 1 + USUAL.epochs * 2
    for start in (1, 3, 5):
        assert sorted(steps[start] + steps[start + 1]) == list(range(16))


def test_grouped_batches_hold_pairs_of_like_length_and_less_padding():
    pairs = draw_pairs(USUAL, "short")
    grouped = batches(pairs, USUAL, "grouped")
    longest, shortest = sorted((min(pairs[i].longer for i in s), max(pairs[i].longer for i in s)) for s in grouped[1:3])
    assert longest[1] <= shortest[0]
    assert padding(pairs, grouped) < padding(pairs, batches(pairs, USUAL, "shuffled"))


def test_padding_is_what_a_padded_batch_holds_over_its_tokens():
    pairs = [Pair((1,) * 2, (1,) * 3, (1,) * 1), Pair((1,) * 1, (1,) * 1, (1,) * 1)]
    assert padding(pairs, [[0, 1]]) == 4 * 5 / (5 + 3 + 2 + 2)
