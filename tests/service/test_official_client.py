"""The official client, unmodified, over a real socket: files, jobs, events, checkpoints, models."""

import io
import json
import time

import httpx
import pytest
from openai import BadRequestError, NotFoundError
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob

from service import keys
from tests.service_facts import JOB_KEYS

PAIR = json.dumps({"prompt": "How was it?", "chosen": "Splendid.", "rejected": "Dreadful."}) + "\n"


@pytest.fixture
def file(client):
    def send(content=PAIR, purpose="fine-tune", **extra):
        return client.files.create(file=("pairs.jsonl", io.BytesIO(content.encode())), purpose=purpose, **extra)

    return send


@pytest.fixture
def start(client, file):
    def send(act="succeed", metadata=None, **extra):
        own = {"act": act, "steps": "4"} | (metadata or {})
        return client.fine_tuning.jobs.create(
            model="tiny", training_file=file().id, method={"type": "dpo"}, metadata=own, **extra
        )

    return send


def ended(client, job_id):
    while (job := client.fine_tuning.jobs.retrieve(job_id)).status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.02)
    return job


def test_a_file_goes_up_is_waited_for_comes_down_and_is_deleted(client, file):
    sent = file(expires_after={"anchor": "created_at", "seconds": 3600})
    assert isinstance(sent, FileObject)
    assert sent.expires_at == sent.created_at + 3600
    assert client.files.wait_for_processing(sent.id, poll_interval=0.01).status == "processed"
    assert client.files.content(sent.id).read().decode() == PAIR
    assert client.files.delete(sent.id).deleted is True
    with pytest.raises(NotFoundError):
        client.files.retrieve(sent.id)


def test_files_are_listed_by_purpose_order_and_page(client, file):
    ids = [file().id for _ in range(3)]
    other = file(purpose="user_data").id
    assert [f.id for f in client.files.list(purpose="fine-tune", order="asc", limit=2)] == ids
    assert [f.id for f in client.files.list(limit=1)] == [other, *reversed(ids)]


def test_a_file_for_another_purpose_cannot_be_trained_on(client, file):
    other = file(purpose="user_data").id
    with pytest.raises(BadRequestError, match="uploaded for 'user_data'"):
        client.fine_tuning.jobs.create(model="tiny", training_file=other, method={"type": "dpo"})


def test_a_job_has_every_required_key_also_when_null(client, start):
    job = start()
    assert isinstance(job, FineTuningJob)
    raw = client.fine_tuning.jobs.with_raw_response.retrieve(job.id).http_response.json()
    assert raw.keys() >= JOB_KEYS
    assert raw["finished_at"] is raw["error"] is raw["validation_file"] is None or raw["finished_at"]


def test_jobs_page_through_and_are_chosen_by_metadata(client, start):
    jobs = [start(metadata={"team": team}).id for team in ("a", "b", "a")]
    bare = client.fine_tuning.jobs.create(
        model="tiny", training_file=client.files.list().data[0].id, method={"type": "dpo"}
    ).id
    assert [job.id for job in client.fine_tuning.jobs.list(limit=1)] == [bare, *reversed(jobs)]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"team": "a"})] == [jobs[2], jobs[0]]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"team": "a", "act": "none"})] == []
    assert [job.id for job in client.fine_tuning.jobs.list(extra_query={"metadata": "null"})] == [bare]


def test_a_job_is_paused_and_resumed_and_its_checkpoints_answer_as_models(client, start, settings):
    job = start("count", metadata={"hold": "2"})
    out = settings.artifacts / f"{job.id}-a1" / "checkpoints"
    while not (out / "step-2").exists():
        time.sleep(0.02)
    client.fine_tuning.jobs.pause(job.id)
    while client.fine_tuning.jobs.retrieve(job.id).status != "paused":
        time.sleep(0.02)
    checkpoint = next(iter(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)))
    assert checkpoint.metrics.step == checkpoint.step_number
    assert checkpoint.metrics.train_loss == 0.5
    name = checkpoint.fine_tuned_model_checkpoint
    assert name.startswith("ft:tiny:local::")
    assert name.endswith(f":ckpt-step-{checkpoint.step_number}")
    assert client.models.retrieve(name).id == name
    client.fine_tuning.jobs.resume(job.id)
    done = ended(client, job.id)
    assert done.status == "succeeded"
    steps = [c.step_number for c in client.fine_tuning.jobs.checkpoints.list(job.id)]
    assert steps == [4, 3, 2, 1]
    assert {client.models.retrieve(f"{done.fine_tuned_model}:ckpt-step-{step}").parent for step in steps} == {"tiny"}
    with pytest.raises(NotFoundError):
        client.models.retrieve(f"{done.fine_tuned_model}:ckpt-step-5")
    with pytest.raises(BadRequestError, match="goes with its policy"):
        client.models.delete(f"{done.fine_tuned_model}:ckpt-step-4")
    assert client.models.delete(done.fine_tuned_model).deleted
    with pytest.raises(NotFoundError):
        client.models.retrieve(f"{done.fine_tuned_model}:ckpt-step-4")


def test_a_checkpoint_can_be_trained_further_and_one_that_is_not_kept_cannot(client, start, settings):
    done = ended(client, start("count").id)
    name = f"{done.fine_tuned_model}:ckpt-step-2"
    file = client.files.list(purpose="fine-tune").data[0].id
    more = client.fine_tuning.jobs.create(model=name, training_file=file, method={"type": "dpo"})
    assert ended(client, more.id).fine_tuned_model.startswith("ft:tiny:local::")
    (settings.artifacts / f"{done.id}-a1" / "checkpoints" / "step-2" / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(NotFoundError):
        client.models.retrieve(name)


def test_a_strangers_checkpoint_does_not_exist(client, start, stranger):
    done = ended(client, start("count").id)
    name = f"{done.fine_tuned_model}:ckpt-step-2"
    assert client.models.retrieve(name).id == name
    assert stranger.get(f"/v1/models/{name}").status_code == 404


def test_the_results_of_a_job_are_a_csv_file(client, start):
    done = ended(client, start("count").id)
    [results] = done.result_files
    assert client.files.retrieve(results).purpose == "fine-tune-results"
    lines = client.files.content(results).text.splitlines()
    assert lines[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert lines[1] == "1,1.0,,,"
    assert len(lines) == 5


def test_the_estimated_finish_goes_when_the_job_ends(client, start, settings):
    job = start("work")
    report = {"seq": 1, "created_at": int(time.time()), "level": "info", "type": "metrics", "message": "x"}
    while client.fine_tuning.jobs.retrieve(job.id).status != "running":
        time.sleep(0.02)
    httpx.post(
        f"{str(client.base_url).removesuffix('/v1/')}/internal/attempts/{job.id}/1/events",
        json={"events": [report | {"data": {"eta_seconds": 100}}]},
        headers={"Authorization": f"Bearer {keys.attempt_token(settings.secret, job.id, 1)}"},
    ).raise_for_status()
    assert client.fine_tuning.jobs.retrieve(job.id).estimated_finish == report["created_at"] + 100
    client.fine_tuning.jobs.cancel(job.id)
    assert ended(client, job.id).estimated_finish is None


def streamed(client, job_id, **headers):
    """(id, event or data) of each message of the stream, to its end."""
    url = f"{client.base_url}fine_tuning/jobs/{job_id}/events"
    headers |= {"Authorization": f"Bearer {client.api_key}", "Accept": "text/event-stream"}
    with httpx.stream("GET", url, headers=headers, timeout=30) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        blocks = "".join(stream.iter_text()).strip().split("\n\n")
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks if not block.startswith(":")]


def test_events_stream_as_they_happen_to_the_end_and_go_on_after_the_last_one_seen(client, start):
    job = start("count")
    messages = streamed(client, job.id)
    assert messages[-1] == {"event": "done", "data": "[DONE]"}
    events = [json.loads(message["data"]) for message in messages[:-1]]
    assert [event["id"] for event in events] == [message["id"] for message in messages[:-1]]
    assert events[0]["message"].startswith("Created")
    assert events[-1]["message"].startswith("The job has succeeded")
    listed = [event.id for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert [event["id"] for event in events] == listed[::-1]
    middle = len(events) // 2
    rest = streamed(client, job.id, **{"Last-Event-ID": events[middle]["id"]})
    assert [message["id"] for message in rest[:-1]] == listed[::-1][middle + 1 :]
