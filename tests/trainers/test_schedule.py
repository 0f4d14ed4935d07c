"""Steps, ranks and rows: every pair once per epoch, whoever computes it, and no row above its budget."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import ceil
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trainers.schedule import MicroBatch, Schedule

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40).map(tuple)


def chosen_of(tokens: tuple[int, ...]) -> tuple[int, ...]:
    """Weights of the first answers' tokens, made up."""
    return tuple(3 * pair % 7 + 1 for pair in range(len(tokens)))


def steps_of(**shape: Any) -> list[list[MicroBatch]]:
    """All ranks' micro-batches, by step, each pass's ranks side by side."""
    shape["token_weights"] = chosen_of(shape["tokens"])
    shape["weights"] = tuple(place % 3 + 0.5 for place in range(len(shape["tokens"])))
    ranks = [Schedule(**shape, rank=rank) for rank in range(shape["ranks"])]
    flat = [[micro_batch for [micro_batch] in schedule] for schedule in ranks]
    size = ranks[0].accumulation
    assert all(len(one) == len(ranks[0]) == ranks[0].steps * size for one in flat)
    passes = list(zip(*flat, strict=True))
    return [[m for one in passes[step * size : (step + 1) * size] for m in one] for step in range(ranks[0].steps)]


@given(
    tokens=LENGTHS,
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 20),
    micro_batch_size=st.integers(1, 8),
    micro_batch_tokens=st.integers(2, 200),
    ranks=st.integers(1, 4),
    seed=st.integers(0, 3),
)
def test_each_epoch_sees_each_pair_once_within_the_rows_budget_and_with_the_weight_of_its_step(**shape):
    steps = steps_of(**shape)
    seen = Counter(pair for step in steps for m in step if m.weight for pair in m.examples)
    assert seen == dict.fromkeys(range(len(shape["tokens"])), shape["epochs"])
    for step in steps:
        counted = sum(place % 3 + 0.5 for m in step if m.weight for place in m.examples)
        tokens = sum(3 * pair % 7 + 1 for m in step if m.weight for pair in m.examples)
        assert all(m.step_tokens == tokens for m in step)
        assert all(m.step_examples == counted and 1 <= len(m.examples) <= shape["micro_batch_size"] for m in step)
        for m in step:
            used = sum(shape["tokens"][pair] for pair in m.examples)
            assert used <= shape["micro_batch_tokens"] or len(m.examples) == 1
    for together in (step[k : k + shape["ranks"]] for step in steps for k in range(0, len(step), shape["ranks"])):
        assert {m.most_examples for m in together} == {max(len(m.examples) for m in together)}


@given(tokens=LENGTHS, batch_size=st.integers(1, 20), ranks=st.integers(1, 4), micro=st.integers(1, 8))
def test_a_steps_pairs_do_not_depend_on_who_computes_them(tokens, batch_size, ranks, micro):
    common = {"tokens": tokens, "epochs": 2, "batch_size": batch_size, "seed": 5}
    one = steps_of(**common, micro_batch_size=256, micro_batch_tokens=10_000, ranks=1)
    many = steps_of(**common, micro_batch_size=micro, micro_batch_tokens=70, ranks=ranks)

    def members(step: list[MicroBatch]) -> list[int]:
        return sorted(pair for m in step if m.weight for pair in m.examples)

    assert [members(step) for step in one] == [members(step) for step in many]


@given(tokens=st.lists(st.integers(1, 60), min_size=16, max_size=16).map(tuple), ranks=st.integers(1, 4))
def test_ranks_get_about_the_same_tokens(tokens, ranks):
    [step] = steps_of(
        tokens=tokens, epochs=1, batch_size=16, micro_batch_size=16, micro_batch_tokens=240, ranks=ranks, seed=0
    )
    rows = [sum(tokens[pair] for pair in m.examples) if m.weight else 0 for m in step]
    assert max(rows) - min(rows) <= max(tokens), "longest first leaves rows at most one pair apart"
    assert len(rows) <= 2 * ceil(sum(tokens) / 240) + ranks


def test_a_worked_example_longest_first_into_the_emptiest_row():
    [step] = steps_of(
        tokens=(9, 8, 7, 6, 5, 4), epochs=1, batch_size=6, micro_batch_size=6, micro_batch_tokens=20, ranks=2, seed=0
    )
    assert [m.examples for m in step] == [(0, 3, 4), (1, 2, 5)]  # 9 | 8, 7 | 6, and 5 to the first of two equals


def test_another_seed_or_epoch_has_another_order():
    shape = {"tokens": (3,) * 30, "epochs": 2, "batch_size": 5, "micro_batch_size": 30, "ranks": 1}
    shape["micro_batch_tokens"] = 1000

    def order(seed: int) -> list[list[int]]:
        return [sorted(step[0].examples) for step in steps_of(**shape, seed=seed)]

    first, second = order(1)[:6], order(1)[6:]
    assert all(a != b for a, b in pairwise([first, second, order(2)[:6], first]))
