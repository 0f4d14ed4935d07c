"""Services die at random moments while jobs are created and run: no acknowledged job is lost, none runs twice.

PREFSERVE_CHAOS_JOBS makes it longer (`make chaos`), PREFSERVE_CHAOS_SEED repeats a run's moments.
"""

import collections
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import httpx
import pytest
from openai import APIConnectionError, APIStatusError, OpenAI

from service import keys, processes, registry
from service.parts import Parts

JOBS = int(os.environ.get("PREFSERVE_CHAOS_JOBS", "16"))
SEED = os.environ.get("PREFSERVE_CHAOS_SEED", str(time.time_ns()))
FAULTS = max(4, JOBS // 8)


class Fleet:
    """Services as processes, each on a port of its own, started again whenever they have been killed."""

    def __init__(self, settings, count):
        self.settings = settings
        self.ports = [_free_port() for _ in range(count)]
        self.services = [self._start(port) for port in self.ports]
        self.killed = self.stopped = 0
        self.ready(0)

    def _start(self, port):
        s = self.settings
        own = {"CPU_SLOTS": "4", "TICK_SECONDS": "0.05", "LEASE_SECONDS": "1", "TRAINER_PYTHON": str(s.trainer_python)}
        own |= {"EXTENSIONS_DIR": str(s.extensions_dir)} | ({"DATABASE_URL": s.database_url} if s.database_url else {})
        env = os.environ | {f"PREFSERVE_{name}": value for name, value in own.items()}
        argv = [sys.executable, "-m", "service.cli", "--home", str(s.home), "up", "--port", str(port)]
        with (s.home / f"up-{port}.txt").open("ab") as log:
            return subprocess.Popen(argv, env=env, stdout=log, stderr=log)

    def ready(self, number):
        """Wait until it answers: one that is killed at every start would never do anything."""
        deadline = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{self.ports[number]}/readyz", timeout=2).raise_for_status()
                return
            except httpx.HTTPError:
                assert self.services[number].poll() is None, "the service has ended by itself"
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def kill(self, number):
        """SIGKILL, and a fresh start; whatever it was doing stays as it was."""
        self.services[number].kill()
        self.services[number].wait()
        self.services[number] = self._start(self.ports[number])
        self.killed += 1

    def freeze(self, number, seconds):
        """Asleep for longer than its leases last, then awake with all that it believed before."""
        self.services[number].send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.services[number].send_signal(signal.SIGCONT)
        self.stopped += 1

    def end(self):
        for service in self.services:
            service.kill()
            service.wait()
        for folder in self.settings.artifacts.iterdir():
            if (process := processes.find(folder)) is not None:
                process.stop(grace=0)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def fleet(settings, base_folder):
    parts = Parts.of(settings)
    with parts.database.transaction() as db:
        _, text = keys.create(db, tenant="ada", name="test")
        registry.add_base(db, "tiny", base_folder, source="test")
    parts.close()
    made = Fleet(settings, 2 if settings.database_url else 1)
    made.key = text
    yield made
    made.end()


def persistently(call):
    """The call's result, however often services die under it."""
    deadline = time.monotonic() + 90
    while True:
        try:
            return call()
        except (APIConnectionError, APIStatusError) as error:
            if getattr(error, "status_code", 503) < 500 or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_no_acknowledged_job_is_lost_and_none_runs_twice(fleet, settings, request):
    print(f"seed {SEED}")
    chance = random.Random(SEED)  # noqa: S311 - moments, not secrets
    clients = [
        OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=fleet.key, max_retries=4, timeout=10)
        for port in fleet.ports
    ]
    acknowledged = {}
    creating = threading.Thread(target=_create_all, args=(clients, acknowledged, SEED))
    creating.start()
    for _ in range(FAULTS):
        number = chance.randrange(len(fleet.services))
        fleet.ready(number)
        time.sleep(chance.uniform(0, 1.5))
        _hurt(fleet, number, chance, request)
    creating.join()
    jobs = [persistently(partial(_ended, clients[0], job)) for job in acknowledged.values()]
    assert fleet.killed + fleet.stopped > 0
    assert [job.status for job in jobs] == ["succeeded"] * JOBS, [job.error for job in jobs]
    _check_books(clients[0], settings, jobs)


def _hurt(fleet, number, chance, request):
    if fleet.settings.database_url is None or chance.random() < 0.5:
        fleet.kill(number)
    elif chance.random() < 0.6:
        fleet.freeze(number, 1.5)
    else:
        cluster = request.getfixturevalue("postgres")
        cluster.stop()  # `immediate`
        cluster.start()


def _create_all(clients, acknowledged, seed):
    """A job each 0.2 s or so, each with a key of its own, asked for until it is acknowledged."""
    chance = random.Random(f"{seed} of creation")  # noqa: S311
    pair = b'{"prompt": "How was it?", "chosen": "Splendid.", "rejected": "Dreadful."}\n'
    file = persistently(lambda: clients[0].files.create(file=("pairs.jsonl", pair), purpose="fine-tune")).id
    for number in range(JOBS):
        body = {"model": "tiny", "training_file": file, "method": {"type": "dpo"}}
        body |= {"metadata": {"act": "count", "steps": "3", "number": str(number)}}
        headers = {"Idempotency-Key": f"job {number}"}
        acknowledged[number] = persistently(
            lambda: chance.choice(clients).fine_tuning.jobs.create(**body, extra_headers=headers)  # noqa: B023
        ).id
        time.sleep(chance.uniform(0.05, 0.3))


def _ended(client, job_id):
    deadline = time.monotonic() + 120
    while (job := client.fine_tuning.jobs.retrieve(job_id)).status not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return job


def _check_books(client, settings, jobs):
    """What the database says, what the folders hold, and what the processes wrote all agree."""
    everything = persistently(lambda: list(client.fine_tuning.jobs.list(limit=100)))
    assert sorted(job.id for job in everything) == sorted(job.id for job in jobs)
    assert len({job.metadata["number"] for job in jobs}) == JOBS
    models = collections.Counter(model.id for model in persistently(lambda: list(client.models.list())))
    for job in jobs:
        attempts = [path for path in settings.artifacts.glob(f"{job.id}-a*") if path.is_dir()]
        finished = [path for path in attempts if (path / "manifest.json").exists()]
        assert [path.name for path in finished] == [f"{job.id}-a{job.to_dict()['attempt']}"]
        assert all(_runs(path) <= 1 for path in attempts), "an attempt was started twice"
        events = persistently(partial(_messages, client, job.id))
        assert sum(message.startswith("The job has succeeded") for message in events) == 1
        assert sum(message.startswith("Created") for message in events) == 1
        assert models[job.fine_tuned_model] == 1
        assert len(job.result_files) == 1


def _messages(client, job_id):
    return [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=100)]


def _runs(attempt: Path):
    runs = attempt / "runs"
    return len(runs.read_text().split()) if runs.exists() else 0
