"""Jobs that stop and go on: at their owner's wish, or because the machine let them down."""

import json
import time

from service import processes
from service.launchers.base import attempt_name


def count(create, steps, hold):
    """A job that takes a tenth of a second per step, and whose first attempt gets no further than `hold`."""
    return create(metadata={"act": "count", "steps": str(steps), "hold": str(hold)})["id"]


def say(api, job, verb):
    return api.post(f"/v1/fine_tuning/jobs/{job}/{verb}").json()


def saved(settings, job, attempt):
    folder = settings.artifacts / attempt_name(job, attempt) / "checkpoints"
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def runs(settings, job):
    """How often a process of each attempt has begun."""
    folders = sorted(settings.artifacts.glob(f"{job}-a*"))
    return {folder.name.rpartition("-a")[2]: len((folder / "runs").read_text().split()) for folder in folders}


def wait_for_step(settings, job, attempt, step):
    while not (found := saved(settings, job, attempt)) or found[-1] < step:
        time.sleep(0.02)


def test_a_paused_job_frees_its_slot_and_goes_on_from_its_checkpoint(api, create, until, settings):
    job = count(create, steps=8, hold=3)
    wait_for_step(settings, job, 1, 3)
    assert say(api, job, "pause")["status"] in ("running", "paused")
    paused = until(job, "paused")
    assert paused["error"] is None
    assert not processes.find(settings.artifacts / attempt_name(job, 1)).alive
    until(create()["id"], "succeeded")  # in the slot that is free now
    reached = saved(settings, job, 1)[-1]
    assert say(api, job, "resume")["status"] in ("queued", "running")
    done = until(job, "succeeded")
    assert done["attempt"] == 2
    first = json.loads((settings.artifacts / attempt_name(job, 2) / "events.jsonl").read_text().splitlines()[0])
    assert first["data"]["step"] == reached + 1
    assert runs(settings, job) == {"1": 1, "2": 1}


def test_what_only_a_resume_needs_moves_on_and_what_is_served_stays(api, create, until, settings):
    job = count(create, steps=4, hold=2)
    wait_for_step(settings, job, 1, 2)
    old, new = (settings.artifacts / attempt_name(job, attempt) for attempt in (1, 2))
    (old / "checkpoints" / "step-2" / "optimizer").mkdir()
    (old / "checkpoints" / "step-2" / "optimizer" / "state").write_bytes(b"large")
    (old / "checkpoints" / "step-3.partial").mkdir()
    say(api, job, "pause")
    until(job, "paused")
    say(api, job, "resume")
    until(job, "succeeded")
    assert (new / "checkpoints" / "step-2" / "optimizer" / "state").read_bytes() == b"large"
    assert not (old / "checkpoints" / "step-2" / "optimizer").exists()
    assert (old / "checkpoints" / "step-2" / "adapter" / "adapter_config.json").exists()
    assert not (new / "checkpoints" / "step-3.partial").exists()


def test_the_results_of_a_resumed_job_hold_each_step_once(api, create, until, settings):
    job = count(create, steps=6, hold=2)
    wait_for_step(settings, job, 1, 2)
    say(api, job, "pause")
    until(job, "paused")
    say(api, job, "resume")
    [results] = until(job, "succeeded")["result_files"]
    table = api.get(f"/v1/files/{results}/content").text.splitlines()
    assert table[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert [line.split(",")[:2] for line in table[1:]] == [[str(step), str(1 / step)] for step in range(1, 7)]


def test_a_queued_job_is_paused_at_once_and_a_pause_can_be_taken_back(api, create, until):
    first, second = create("work")["id"], create()["id"]
    until(first, "running")
    assert say(api, second, "pause")["status"] == "paused"
    assert say(api, second, "pause")["status"] == "paused"
    assert say(api, second, "resume")["status"] == "queued"
    assert say(api, second, "cancel")["status"] == "cancelled"


def test_a_paused_job_can_be_cancelled_and_an_ended_one_neither_paused_nor_resumed(api, create, until):
    job = create("work")["id"]
    until(job, "running")
    say(api, job, "pause")
    until(job, "paused")
    assert say(api, job, "cancel")["status"] == "cancelled"
    for verb, code in (("pause", "job_not_pausable"), ("resume", "job_not_resumable")):
        error = say(api, job, verb)["error"]
        assert error["code"] == code
        assert "is cancelled" in error["message"]


def test_a_job_whose_processes_die_is_tried_again_within_its_budget_and_no_further(api, create, until, settings):
    job = until(create("die")["id"], "failed")
    assert job["attempt"] == 1 + settings.infrastructure_retries
    assert "no retry is left" in job["error"]["message"]
    assert runs(settings, job["id"]) == {"1": 1, "2": 1, "3": 1}
    messages = [e["message"] for e in api.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]]
    assert sum("has ended: the training processes died" in message for message in messages) == 2


def test_a_job_that_fails_by_its_own_fault_is_not_tried_again(create, until, settings):
    job = until(create("fail")["id"], "failed")
    assert job["attempt"] == 1
    assert runs(settings, job["id"]) == {"1": 1}


def test_a_job_whose_processes_were_killed_goes_on_from_its_checkpoint(create, until, settings):
    job = count(create, steps=6, hold=3)
    wait_for_step(settings, job, 1, 3)
    processes.find(settings.artifacts / attempt_name(job, 1)).stop(grace=0)
    assert until(job, "succeeded")["attempt"] == 2
    first = json.loads((settings.artifacts / attempt_name(job, 2) / "events.jsonl").read_text().splitlines()[0])
    assert first["data"]["step"] == 4
