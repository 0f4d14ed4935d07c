"""Steps, ranks and micro-batches: every pair once per epoch, whoever computes it."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from trainers.schedule import MicroBatch, Schedule


def steps_of(**shape: int) -> list[list[MicroBatch]]:
    """All ranks' micro-batches, by step."""
    tokens = tuple(3 * pair % 7 + 1 for pair in range(shape.pop("pairs")))
    ranks = [Schedule(tokens, **shape, rank=rank) for rank in range(shape["ranks"])]
    flat = [[micro_batch for [micro_batch] in schedule] for schedule in ranks]
    size = ranks[0].accumulation
    assert all(len(one) == len(ranks[0]) == ranks[0].steps * size for one in flat)
    return [[m for one in flat for m in one[step * size : (step + 1) * size]] for step in range(ranks[0].steps)]


@given(
    pairs=st.integers(1, 40),
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 20),
    micro_batch_size=st.integers(1, 8),
    ranks=st.integers(1, 4),
    seed=st.integers(0, 3),
)
def test_each_epoch_sees_each_pair_once_with_the_weight_of_its_step(**shape):
    steps = steps_of(**shape)
    seen = Counter(pair for step in steps for m in step if m.weight for pair in m.pairs)
    assert seen == dict.fromkeys(range(shape["pairs"]), shape["epochs"])
    for step in steps:
        counted = sum(len(m.pairs) for m in step if m.weight)
        tokens = sum(3 * pair % 7 + 1 for m in step if m.weight for pair in m.pairs)
        assert all(m.step_tokens == tokens for m in step)
        assert all(m.step_pairs == counted and 1 <= len(m.pairs) <= shape["micro_batch_size"] for m in step)


@given(pairs=st.integers(1, 40), batch_size=st.integers(1, 20), ranks=st.integers(1, 4), micro=st.integers(1, 8))
def test_a_steps_pairs_do_not_depend_on_who_computes_them(pairs, batch_size, ranks, micro):
    one = steps_of(pairs=pairs, epochs=2, batch_size=batch_size, micro_batch_size=256, ranks=1, seed=5)
    many = steps_of(pairs=pairs, epochs=2, batch_size=batch_size, micro_batch_size=micro, ranks=ranks, seed=5)

    def members(step: list[MicroBatch]) -> list[int]:
        return sorted(pair for m in step if m.weight for pair in m.pairs)

    assert [members(step) for step in one] == [members(step) for step in many]


def test_another_seed_or_epoch_has_another_order():
    shape = {"pairs": 30, "epochs": 2, "batch_size": 30, "micro_batch_size": 30, "ranks": 1}
    first, second = (step[0].pairs for step in steps_of(**shape, seed=1))
    other = steps_of(**shape, seed=2)[0][0].pairs
    assert all(a != b for a, b in pairwise([first, second, other, first]))
