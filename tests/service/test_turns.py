"""Who is next in the queue: exact orders, and what holds for every queue."""

from hypothesis import given
from hypothesis import strategies as st

from service.turns import TOLD, Entry, Room, plan


def entry(id_, tenant="ada", slots=1, priority=0, age=0, not_before=0):
    return Entry(id_, tenant, slots, priority, 0, age, not_before, None)


def started(waiting, holding=(), slots=1, quota=None, now=0):
    return [e.id for e in plan(waiting, list(holding), Room(slots, quota), now).start]


def test_the_oldest_goes_first():
    assert started([entry("b", age=2), entry("a", age=1), entry("c", age=3)], slots=2) == ["a", "b"]


def test_priority_goes_before_age():
    assert started([entry("old", age=1), entry("urgent", age=2, priority=5)]) == ["urgent"]


def test_the_tenant_that_holds_less_goes_first():
    waiting = [entry("a1", "ada", age=1), entry("a2", "ada", age=2), entry("b1", "bob", age=3)]
    assert started(waiting, slots=2) == ["a1", "b1"]
    assert started(waiting, holding=[entry("a0", "ada")], slots=2) == ["b1"]


def test_a_tenant_past_its_quota_waits_and_holds_up_nobody():
    waiting = [entry("a1", "ada", age=1), entry("a2", "ada", age=2), entry("b1", "bob", age=3)]
    result = plan(waiting, [], Room(3, 1), 0)
    assert [e.id for e in result.start] == ["a1", "b1"]
    assert result.reasons == {"a2": "needs 1 slots, your quota is 1 and your jobs hold 1"}


def test_a_large_job_is_not_starved_by_smaller_ones():
    waiting = [entry("large", slots=2, age=1), entry("small", "bob", age=2)]
    result = plan(waiting, [entry("runs", "cyd")], Room(2, None), 0)
    assert result.start == []
    assert result.reasons["large"] == "needs 2 of 2 slots, held by other tenants"
    assert result.reasons["small"] == "needs 1 of 2 slots, held by other tenants; 1 job waits before it"


def test_a_job_whose_attempt_has_just_failed_waits_out_its_pause():
    assert started([entry("a", not_before=10)], now=9) == []
    assert started([entry("a", not_before=10)], now=10) == ["a"]


def test_what_can_never_fit_is_told_apart():
    assert [e.id for e in plan([entry("a", slots=3)], [], Room(2, None), 0).impossible] == ["a"]
    assert [e.id for e in plan([entry("a", slots=2)], [], Room(2, 1), 0).impossible] == ["a"]


def test_far_back_in_the_queue_reasons_do_not_change_with_every_start():
    waiting = [entry(f"{n:03}", age=n) for n in range(100)]
    before = plan(waiting, [entry("x", "bob")], Room(1, None), 0).reasons
    after = plan(waiting[1:], [entry("000")], Room(1, None), 0).reasons
    assert sum(before[job] != after[job] for job in after) <= TOLD + 2


ENTRIES = st.lists(
    st.builds(
        entry,
        st.uuids().map(str),
        st.sampled_from(["ada", "bob", "cyd"]),
        st.integers(1, 5),
        st.integers(-2, 2),
        st.integers(0, 9),
        st.integers(0, 1),
    ),
    unique_by=lambda e: e.id,
    max_size=30,
)


@given(ENTRIES, st.integers(1, 8), st.one_of(st.none(), st.integers(1, 4)))
def test_every_job_starts_or_has_a_reason_and_nothing_is_given_twice(waiting, slots, quota):
    result = plan(waiting, [], Room(slots, quota), 0)
    ids = [e.id for e in result.start] + list(result.reasons) + [e.id for e in result.impossible]
    assert sorted(ids) == sorted(e.id for e in waiting)
    assert sum(e.slots for e in result.start) <= slots
    if quota is not None:
        for tenant in ("ada", "bob", "cyd"):
            assert sum(e.slots for e in result.start if e.tenant == tenant) <= quota
