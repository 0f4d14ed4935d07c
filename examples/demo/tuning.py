"""A preference job through the official client: upload, create, follow to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from examples.demo.inputs import Inputs

OVER = ("succeeded", "failed", "cancelled")
EVENTS_PER_PAGE = 100


class JobFailed(Exception):
    """The job ended without a policy; the message is the sentence that the service gives its owner."""


@dataclass(frozen=True)
class Event:
    """A job's event, as far as the demo reads it."""

    id: str
    message: str
    metrics: dict[str, float]  #: empty unless the event is one of metrics


@dataclass(frozen=True)
class Tuned:
    """What a job that succeeded left."""

    job: str
    policy: str  #: model id
    curve: list[dict[str, float]]  #: one per logged step
    checkpoints: int


def submit(client: OpenAI, inputs: Inputs, method: str, scratch: Path) -> FineTuningJob:
    """Upload the pairs and create the job."""
    scratch.write_text("\n".join(inputs.lines))
    with scratch.open("rb") as pairs:
        file = client.files.create(file=pairs, purpose="fine-tune")
    wanted: Any = {"type": method, method: {"hyperparameters": inputs.hyperparameters}}
    return client.fine_tuning.jobs.create(
        model=inputs.name,
        training_file=file.id,
        suffix="demo",
        method=wanted,
        extra_body={"peft": {"r": 8, "lora_alpha": 16}},
    )


def follow(client: OpenAI, job: FineTuningJob, seen: Callable[[Event], None], pause: float = 0.3) -> Tuned:
    """Call `seen` with each event, oldest first, until the job is over. Raises JobFailed."""
    events: list[Event] = []
    while True:
        over = (job := client.fine_tuning.jobs.retrieve(job.id)).status in OVER
        for event in _news(client, job.id, known=len(events)):
            events.append(event)
            seen(event)
        if over:
            break
        time.sleep(pause)
    if job.status != "succeeded" or job.fine_tuned_model is None:
        raise JobFailed(job.error.message if job.error else f"the job was {job.status}")
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    curve = [event.metrics for event in events if event.metrics]
    return Tuned(job.id, job.fine_tuned_model, curve, len(checkpoints))


def cancel(client: OpenAI, job: str) -> None:
    """Cancel and wait until no process of the job is left."""
    while client.fine_tuning.jobs.cancel(job).status not in OVER:
        time.sleep(0.3)


def _news(client: OpenAI, job: str, known: int) -> list[Event]:
    """Events after the first `known`, oldest first; the API lists the newest first."""
    events = [_read(event) for event in client.fine_tuning.jobs.list_events(job, limit=EVENTS_PER_PAGE)]
    return events[::-1][known:]


def _read(event: Any) -> Event:
    metrics = {name: value for name, value in (event.data or {}).items() if isinstance(value, int | float)}
    return Event(event.id, event.message, metrics if event.type == "metrics" else {})
