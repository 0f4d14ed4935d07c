"""Several services on one database: each job is followed by one, taken over from a dead one, and started once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import update

from service import jobs, keys, registry
from service.db.tables import File, Job
from service.errors import Refusal, Stale
from service.launchers.base import Outcome, Phase, attempt_name
from service.parts import Parts
from service.replicas import place
from service.requests import Origin
from service.settings import Settings
from service.states import Status
from trainers.spec import JobSpec


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"cpu_slots": 3, "lease_seconds": 0.4, "tick_seconds": 0.01})


@pytest.fixture
def crew(settings, base_folder):
    """Services over one home, none of them scheduling yet."""
    made = []

    def hire(count):
        made.extend(Parts.of(settings, number) for number in range(len(made), len(made) + count))
        with made[0].database.transaction() as db:
            registry.add_base(db, "tiny", base_folder, source="test")
        return made[:]

    yield hire
    for parts in made:
        parts.close()


@pytest.fixture
def file(settings, crew):
    """A training file's id, in place before any job."""
    settings.prepare()
    (settings.files / "file-x").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    return "file-x"


def queue(parts, file, act="succeed", tenant="ada", **resources):
    spec = JobSpec.model_validate(
        {
            "model": "tiny",
            "training_file": file,
            "method": {"type": "dpo"},
            "metadata": {"act": act},
            "serving": "adapter",
            "resources": resources,
        }
    )
    with parts.database.transaction() as db:
        if db.get(File, file) is None:
            db.add(File(id=file, tenant=tenant, filename="x", purpose="fine-tune", bytes=1, sha256=""))
        return jobs.create(db, spec, tenant=tenant, room=parts.settings.room, origin=Origin("key", spec)).id


def look(parts, job):
    with parts.database.snapshot() as db:
        return jobs.get(db, job, tenant="ada")


def until(condition, timeout=30):
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def runs(settings, job, attempt=1):
    path = settings.artifacts / attempt_name(job, attempt) / "runs"
    return len(path.read_text().split()) if path.exists() else 0


def test_many_jobs_under_three_schedulers_run_once_each_and_never_more_than_fit(crew, file, settings):
    if settings.database_url is None:
        pytest.skip("SQLite has one service at a time")
    three = crew(3)
    for parts in three:
        parts.start()
    queued = [queue(three[0], file) for _ in range(15)]
    most = 0
    while any(look(three[0], job).status is not Status.SUCCEEDED for job in queued):
        with three[0].database.snapshot() as db:
            most = max(most, sum(entry.slots for entry in jobs.entries(db, Status.RUNNING)))
        assert not any(look(three[0], job).status is Status.FAILED for job in queued)
    assert 1 < most <= 3
    assert {(look(three[0], job).attempt, runs(settings, job)) for job in queued} == {(1, 1)}


def test_what_a_dead_service_followed_is_taken_over_when_its_lease_has_run_out(crew, file, settings):
    dead, other = crew(2)
    job = queue(dead, file)
    dead.scheduler.tick()
    assert look(dead, job).lease_owner == "replica-0"
    until(lambda: (settings.artifacts / attempt_name(job, 1) / "manifest.json").exists())
    with dead.database.transaction() as db:
        db.execute(update(Job).values(lease_until=2e9))
    other.scheduler.tick()
    assert look(other, job).status is Status.RUNNING
    with dead.database.transaction() as db:
        db.execute(update(Job).values(lease_until=1.0))
    until(lambda: other.scheduler.tick() or look(other, job).status is Status.SUCCEEDED)
    assert runs(settings, job) == 1


def test_a_service_that_stops_politely_lets_go_at_once(crew, file):
    first, second = crew(2)
    job = queue(first, file, "work")
    first.start()
    until(lambda: look(first, job).lease_owner == "replica-0")
    first.stop.set()
    first.threads[0].join()
    assert look(second, job).lease_owner is None
    second.scheduler.tick()
    assert look(second, job).lease_owner == "replica-1"
    second.launcher.stop(attempt_name(job, 1))


def test_a_service_that_slept_through_its_lease_changes_nothing_when_it_wakes(crew, file, settings):
    sleeper, other = crew(2)
    job = queue(sleeper, file, "work")
    sleeper.scheduler.tick()
    until(lambda: (settings.artifacts / attempt_name(job, 1) / "events.jsonl").exists())
    old = look(sleeper, job)  # what the sleeper knows when it falls asleep
    sleeper.launcher.stop(attempt_name(job, 1))  # a reboot, say; the other service sees to it
    until(lambda: other.scheduler.tick() or look(other, job).attempt == 2)
    until(lambda: runs(settings, job, 2) == 1)
    for act in (
        lambda: sleeper.scheduler._end(old, Outcome(Phase.SUCCEEDED), settings.artifacts / attempt_name(job, 1)),
        lambda: sleeper.scheduler._end(old, Outcome(Phase.STOPPED), settings.artifacts / attempt_name(job, 1)),
    ):
        with pytest.raises(Stale):
            act()
    sleeper.scheduler._launch(old)
    now = look(other, job)
    assert (now.status, now.attempt, runs(settings, job, 1), runs(settings, job, 2)) == (Status.RUNNING, 2, 1, 1)
    other.launcher.stop(attempt_name(job, 2))


def test_an_attempt_that_many_start_at_once_is_started_once(crew, file, settings):
    [parts] = crew(1)
    job = queue(parts, file, "work")
    with parts.database.transaction() as db:
        assert jobs.lock_queue(db)
        [entry] = jobs.entries(db, Status.QUEUED)
        claimed = jobs.claim(db, entry, owner="replica-0", seconds=60, root=str(settings.artifacts))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: parts.scheduler._launch(claimed), range(8)))
    until(lambda: runs(settings, job) == 1)
    time.sleep(0.3)
    assert runs(settings, job) == 1
    assert look(parts, job).attempt == 1
    parts.launcher.stop(attempt_name(job, 1))


def test_of_many_who_claim_one_job_one_has_it(crew, file, settings):
    one, two = crew(2)
    job = queue(one, file)
    with one.database.snapshot() as db:
        [entry] = jobs.entries(db, Status.QUEUED)
    barrier, had = threading.Barrier(6), []

    def claim(parts):
        barrier.wait()
        with parts.database.transaction() as db:
            had.append(jobs.claim(db, entry, owner="x", seconds=60, root=str(settings.artifacts)))

    threads = [threading.Thread(target=claim, args=(parts,)) for parts in (one, two) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(found is not None for found in had) == 1
    assert look(one, job).attempt == 1


def test_one_scheduler_claims_at_a_time_and_the_others_do_not_wait_for_it(crew, file, settings):
    if settings.database_url is None:
        pytest.skip("SQLite has one service at a time")
    one, two = crew(2)
    job = queue(one, file)
    with one.database.transaction() as db:
        assert jobs.lock_queue(db)
        two.scheduler.tick()
        assert look(two, job).status is Status.QUEUED
    two.scheduler.tick()
    assert look(two, job).status is Status.RUNNING


def test_a_second_service_has_a_number_of_its_own_on_postgresql_and_is_refused_on_sqlite(settings):
    settings.prepare()
    with place(settings) as first:
        assert first == 0
        if settings.database_url is None:
            with (
                pytest.raises(Refusal, match=r"another prefserve runs on .*; several at once need PostgreSQL"),
                place(settings),
            ):
                pass
        else:
            with place(settings) as second:
                assert second == 1
    with place(settings) as again:
        assert again == 0


def test_a_database_of_another_home_is_refused(crew, settings, tmp_path):
    crew(1)
    url = settings.database_url or f"sqlite:///{settings.home / 'prefserve.db'}"
    with pytest.raises(Refusal, match="belongs to another home folder"):
        Parts.of(Settings(home=tmp_path / "other", database_url=url))


def test_a_key_made_by_one_service_opens_the_other(crew):
    one, two = crew(2)
    with one.database.transaction() as db:
        _, text = keys.create(db, tenant="ada", name="x")
    with two.database.snapshot() as db:
        assert keys.find(db, text).tenant == "ada"
