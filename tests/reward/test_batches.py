"""Sequences of several callers become few requests, and one that is wrong does not spoil the others."""

import asyncio

import pytest

from reward.batches import AT_ONCE, SEQUENCES, Batches
from reward.cache import Cache
from reward.endpoints import Facts
from reward.errors import Invalid, Unavailable


class Sent:
    """An engine that answers with each sequence's sum and refuses a negative one."""

    def __init__(self):
        self.batches = []
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, sequences):
        self.batches.append([list(ids) for ids in sequences])
        await self.open.wait()
        if any(min(ids) < 0 for ids in sequences):
            raise Invalid("negative")
        return [sum(ids) for ids in sequences]


def test_what_callers_ask_at_the_same_time_goes_out_together():
    async def course():
        sent = Sent()
        batches = Batches(sent)
        answers = await asyncio.gather(*(batches.ask([k, k]) for k in range(2 * SEQUENCES + 1)))
        return sent.batches, answers

    batches, answers = asyncio.run(course())
    assert answers == [2 * k for k in range(2 * SEQUENCES + 1)]
    assert [len(batch) for batch in batches] == [SEQUENCES, SEQUENCES, 1]


def test_no_more_batches_than_agreed_are_inside_the_engine_and_all_are_answered():
    async def course():
        sent = Sent()
        sent.open.clear()
        batches = Batches(sent)
        asked = [asyncio.ensure_future(batches.ask([k])) for k in range((AT_ONCE + 2) * SEQUENCES)]
        for _ in range(20):
            await asyncio.sleep(0)
        inside = len(sent.batches)
        sent.open.set()
        return inside, await asyncio.gather(*asked)

    inside, answers = asyncio.run(course())
    assert inside == AT_ONCE
    assert answers == list(range((AT_ONCE + 2) * SEQUENCES))


def test_a_sequence_that_is_refused_is_refused_alone():
    async def course():
        batches = Batches(Sent())
        return await asyncio.gather(*(batches.ask([k]) for k in (1, -1, 3)), return_exceptions=True)

    one, wrong, three = asyncio.run(course())
    assert (one, three) == (1, 3)
    assert isinstance(wrong, Invalid)


def test_a_caller_that_has_gone_is_not_sent_and_an_engine_that_is_down_is_told_to_all():
    async def course():
        sent = Sent()
        batches = Batches(sent)
        gone = asyncio.ensure_future(batches.ask([9]))
        await asyncio.sleep(0)
        gone.cancel()
        kept = await batches.ask([2])

        async def down(_):
            raise Unavailable("down")

        both = Batches(down)
        failures = await asyncio.gather(both.ask([1]), both.ask([2]), return_exceptions=True)
        return sent.batches, kept, failures

    batches, kept, failures = asyncio.run(course())
    assert kept == 2
    assert [2] in batches[-1]
    assert [type(failure) for failure in failures] == [Unavailable, Unavailable]


def facts(digest, dtype="float32"):
    return Facts(digest=digest, tokenizer_sha256="t", chat_template_sha256=None, dtype=dtype)


def test_the_cache_tells_models_dtypes_and_ids_apart_and_forgets_the_oldest():
    cache: Cache[list[float]] = Cache(tokens=5)
    cache.put(facts("a"), [1, 2, 3], [0.1, 0.2])
    for other, ids in ((facts("b"), [1, 2, 3]), (facts("a", "bfloat16"), [1, 2, 3]), (facts("a"), [1, 2, 4])):
        assert cache.get(other, ids) is None
    assert cache.get(facts("a"), [1, 2, 3]) == [0.1, 0.2]
    cache.put(facts("b"), [1], [0.3, 0.4])
    assert cache.get(facts("a"), [1, 2, 3]) == [0.1, 0.2]
    cache.put(facts("c"), [1], [0.5, 0.6])
    assert cache.get(facts("b"), [1]) is None
    assert cache.get(facts("a"), [1, 2, 3]) == [0.1, 0.2]
    assert cache.held == 4
    cache.put(facts("d"), [1], [0.0] * 6)
    assert cache.get(facts("d"), [1]) is None


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_of_any_size_keeps_the_order_of_its_callers(count):
    async def course():
        batches = Batches(Sent())
        return await asyncio.gather(*(batches.ask([k]) for k in range(count)))

    assert asyncio.run(course()) == list(range(count))
