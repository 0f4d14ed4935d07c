"""Jobs over HTTP, from creation to each of their ends, with real processes in the trainers' place."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from service import jobs, keys, processes
from service.errors import Stale
from service.launchers.base import Phase, attempt_name
from service.launchers.local import LocalLauncher

PAIR = {"prompt": "How was it?", "chosen": "Splendid.", "rejected": "Dreadful."}
PROGRAM = Path(__file__).with_name("worker_program.py")
REQUIRED = {
    "id", "object", "created_at", "finished_at", "model", "fine_tuned_model", "organization_id", "status",
    "hyperparameters", "training_file", "validation_file", "result_files", "trained_tokens", "error", "seed",
}  # fmt: skip


def eventually(look, timeout=20):
    """What the look finds, as soon as it finds something."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_a_job_has_every_key_of_the_dialect_and_its_defaults_resolved(create):
    hyperparameters = {"beta": 0.2, "n_epochs": "auto"}
    job = create(method={"type": "sparsepo", "sparsepo": {"hyperparameters": hyperparameters}}, suffix="reviews")
    assert job.keys() >= REQUIRED
    resolved = job["method"]["sparsepo"]["hyperparameters"]
    assert resolved["beta"] == 0.2
    assert resolved["mask"] == "learned_common"
    assert job["hyperparameters"] == {"n_epochs": 1, "batch_size": 16, "learning_rate_multiplier": 1.0}


def test_a_job_runs_to_a_servable_model(api, create, until):
    job = until(create(suffix="mine")["id"], "succeeded")
    assert job["fine_tuned_model"].startswith("ft:tiny:local:mine:")
    assert job["trained_tokens"] == 1234
    model = api.get(f"/v1/models/{job['fine_tuned_model']}").json()
    assert (model["parent"], model["job"]) == ("tiny", job["id"])
    assert job["fine_tuned_model"] in [m["id"] for m in api.get("/v1/models").json()["data"]]


def test_events_and_checkpoints_of_a_finished_job_are_all_there(api, create, until):
    job = until(create()["id"], "succeeded")["id"]
    events = api.get(f"/v1/fine_tuning/jobs/{job}/events", params={"limit": 100}).json()["data"]
    assert events[0]["message"].startswith("The job has succeeded")
    metrics = [event for event in events if event["type"] == "metrics"]
    assert metrics[0]["data"]["train_loss"] == 0.69
    [checkpoint] = api.get(f"/v1/fine_tuning/jobs/{job}/checkpoints").json()["data"]
    assert checkpoint["step_number"] == 2
    assert checkpoint["metrics"] == {"step": 2, "train_loss": 0.5}


def test_events_page_by_cursor_and_none_is_missed(api, create, until):
    job = until(create()["id"], "succeeded")["id"]
    seen, after = [], None
    while True:
        query = {"limit": 2} | ({"after": after} if after else {})
        page = api.get(f"/v1/fine_tuning/jobs/{job}/events", params=query).json()
        seen += [event["id"] for event in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert len(seen) == len(set(seen)) == 5


def test_a_failed_job_keeps_the_workers_sentence(create, until):
    job = until(create("fail")["id"], "failed")
    assert job["error"] == {"message": "the loss became NaN at step 3", "code": "nan_loss", "param": None}
    assert job["fine_tuned_model"] is None


def test_a_worker_that_dies_leaves_the_end_of_its_log(create, until):
    error = until(create("die")["id"], "failed")["error"]
    assert error["code"] == "worker_died"
    assert "died without a word" in error["message"]
    assert "a last line before the end" in error["message"]


def test_a_running_job_is_cancelled_once_its_processes_are_gone(api, create, until, settings):
    job = create("work")["id"]
    until(job, "running")
    out = settings.artifacts / attempt_name(job, 1)
    while not (out / "events.jsonl").exists():
        time.sleep(0.02)
    asked = api.post(f"/v1/fine_tuning/jobs/{job}/cancel").json()
    assert asked["status"] in ("running", "cancelled")
    until(job, "cancelled")
    assert not processes.find(out).alive
    assert json.loads((out / "outcome.json").read_text())["state"] == "stopped"


def test_a_second_job_waits_for_the_slot_and_says_for_whom(api, create, until):
    first, second = create("work")["id"], create()["id"]
    until(first, "running")
    path = f"/v1/fine_tuning/jobs/{second}"
    eventually(lambda: api.get(path).json()["status_reason"] == f"needs 1 of 1 slots, held by {first}")
    assert api.get(path).json()["status"] == "queued"
    api.post(f"/v1/fine_tuning/jobs/{first}/cancel")
    until(second, "succeeded")


def test_what_a_job_waits_for_names_no_other_tenants_job(create, until, api, stranger, upload):
    first = create("work")["id"]
    until(first, "running")
    file = stranger.post(
        "/v1/files", files={"file": ("p.jsonl", json.dumps(PAIR))}, data={"purpose": "fine-tune"}
    ).json()
    body = {"model": "tiny", "training_file": file["id"], "method": {"type": "dpo"}}
    theirs = stranger.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    path = f"/v1/fine_tuning/jobs/{theirs}"
    eventually(lambda: stranger.get(path).json()["status_reason"] == "needs 1 of 1 slots, held by other tenants")
    stranger.post(f"{path}/cancel")


@pytest.mark.parametrize(
    "method",
    [{"type": "dpo", "dpo": {}}, {"type": "dpo", "dpo": None}, {"type": "dpo", "dpo": {"hyperparameters": None}}],
)
def test_what_the_official_client_may_leave_out_or_send_as_null_is_taken(create, method):
    job = create(method=method, seed=None, suffix=None, integrations=[], validation_file=None)
    assert job["method"]["dpo"]["hyperparameters"]["beta"] == 0.1


def test_no_path_of_this_machine_reaches_the_owner_of_a_failed_job(api, create, until, settings):
    job = until(create("fail", suffix="path")["id"], "failed")
    events = api.get(f"/v1/fine_tuning/jobs/{job['id']}/events").text
    assert "(path)" in job["error"]["message"]
    assert str(settings.home) not in job["error"]["message"] + events


def test_a_queued_job_is_cancelled_at_once(api, create, until):
    first, second = create("work")["id"], create()["id"]
    until(first, "running")
    assert api.post(f"/v1/fine_tuning/jobs/{second}/cancel").json()["status"] == "cancelled"
    assert api.post(f"/v1/fine_tuning/jobs/{second}/cancel").json()["status"] == "cancelled"


def test_a_stale_attempt_can_neither_finish_a_job_nor_report(create, until, parts):
    job_id = create("work")["id"]
    until(job_id, "running")
    with parts.database.snapshot() as db:
        job = jobs.get(db, job_id, tenant="ada")
    job.attempt = 0
    with pytest.raises(Stale), parts.database.transaction() as db:
        jobs.finish(db, job, model="ft:x", trained_tokens=1)
    with pytest.raises(Stale), parts.database.transaction() as db:
        jobs.hold_current(db, job_id, 2)


def test_a_report_from_an_ended_attempt_is_answered_409_and_not_retried(api, create, until, settings):
    job = until(create()["id"], "succeeded")["id"]
    token = {"Authorization": f"Bearer {keys.attempt_token(settings.secret, job, 1)}"}
    answer = api.post(f"/internal/attempts/{job}/1/events", json={"events": []}, headers=token)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
    assert answer.json()["error"]["code"] == "stale_attempt"


def test_a_restarted_scheduler_adopts_the_running_attempt(create, until, parts):
    job = create("work")["id"]
    until(job, "running")
    out = parts.launcher.folder(attempt_name(job, 1))
    while processes.find(out) is None:
        time.sleep(0.02)
    before = processes.find(out)
    for _ in range(3):
        parts.scheduler.tick()
    assert processes.find(out) == before
    assert before.alive


def test_an_attempt_claimed_but_never_launched_is_launched_by_the_next_tick(create, until, parts, settings):
    job = create("work")["id"]
    until(job, "running")
    out = settings.artifacts / attempt_name(job, 1)
    first = eventually(lambda: processes.find(out))
    parts.stop.set()
    for thread in parts.threads:
        thread.join()
    first.signal_group(signal.SIGKILL)
    eventually(lambda: not first.alive)
    shutil.rmtree(out)  # as if the service had died between claim and launch
    parts.scheduler.tick()
    assert processes.find(out).alive


def test_an_attempt_stopped_from_outside_is_started_again(create, until, settings):
    job = create("work")["id"]
    until(job, "running")
    out = settings.artifacts / attempt_name(job, 1)
    eventually(lambda: (out / "events.jsonl").exists())
    before = processes.find(out)
    before.signal_group(signal.SIGTERM)  # a reboot, say: nobody wished the job's end
    new = settings.artifacts / attempt_name(job, 2)
    after = eventually(lambda: processes.find(new))
    assert after.alive
    assert until(job, "running")["attempt"] == 2
    assert not before.alive


def test_one_jobs_trouble_does_not_hold_up_the_others(create, until, parts, settings):
    broken = create("work")["id"]
    until(broken, "running")
    out = settings.artifacts / attempt_name(broken, 1)
    eventually(lambda: (out / "events.jsonl").exists())
    processes.find(out).signal_group(signal.SIGKILL)
    (out / "manifest.json").write_text("not a manifest")
    (out / "events.jsonl").write_text("not an event\n")
    error = until(broken, "failed")["error"]
    assert error["code"] == "bad_manifest"
    until(create()["id"], "succeeded")


def test_a_lock_that_a_killed_worker_left_holds_up_no_later_job(create, until, settings):
    built = settings.extensions_dir / "comm"
    built.mkdir(parents=True)
    (built / "comm.so").write_bytes(b"compiled")
    (built / "lock").touch()
    job = create("work")["id"]
    until(job, "running")
    own = settings.artifacts / attempt_name(job, 1) / "torch_extensions" / "comm"
    eventually(lambda: (own / "comm.so").exists())
    assert not (own / "lock").exists()


def test_workers_that_outlive_their_launcher_keep_the_slot(settings, tmp_path):
    launcher = LocalLauncher(tmp_path, PROGRAM, tmp_path, (), 1)
    out = launcher.folder("ftjob-x-a1")
    out.mkdir()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)", str(out / "spec.json")]
    reader = processes.start(tmp_path / "elsewhere", sleep, {})
    worker = [*sleep, "trainers.worker"]
    outliving = processes.start(tmp_path / "worker", worker, {})
    eventually(lambda: launcher.poll("ftjob-x-a1").phase is Phase.RUNNING)
    launcher.stop("ftjob-x-a1")
    os.utime(out / "stop-requested", (0, 0))  # long ago
    launcher.stop("ftjob-x-a1")
    eventually(lambda: not outliving.alive)
    assert launcher.poll("ftjob-x-a1").phase is Phase.ABSENT
    assert reader.alive
    reader.stop(grace=0)


def test_a_strangers_job_does_not_exist(stranger, create, until):
    job = create("work")["id"]
    until(job, "running")
    for path in ("", "/events", "/checkpoints"):
        assert stranger.get(f"/v1/fine_tuning/jobs/{job}{path}").status_code == 404
    assert stranger.post(f"/v1/fine_tuning/jobs/{job}/cancel").status_code == 404
    assert stranger.get("/v1/fine_tuning/jobs").json()["data"] == []


def test_a_file_deleted_before_its_job_starts_fails_the_job_with_a_sentence(api, create, until, upload):
    first = create("work")["id"]
    until(first, "running")
    file = upload()["id"]
    second = create(training_file=file)["id"]
    api.delete(f"/v1/files/{file}")
    api.post(f"/v1/fine_tuning/jobs/{first}/cancel")
    assert "was deleted before the job started" in until(second, "failed")["error"]["message"]


def test_a_base_model_cannot_be_deleted_and_a_policy_can(api, create, until):
    assert api.delete("/v1/models/tiny").json()["error"]["param"] == "model"
    model = until(create()["id"], "succeeded")["fine_tuned_model"]
    assert api.delete(f"/v1/models/{model}").json() == {"id": model, "object": "model", "deleted": True}
    assert api.get(f"/v1/models/{model}").json()["error"]["code"] == "model_not_found"
