"""A finished job's metrics as a CSV file, which its `result_files` names: OpenAI's columns first, then ours."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import files
from service.db.tables import Event, Job

PURPOSE = "fine-tune-results"
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
#: of progress, not of the model
LEFT_OUT = frozenset({"total_steps", "eta_seconds"})
#: OpenAI's name for what preference runs call `rewards/accuracies`
ACCURACY = "rewards/accuracies"


def write(db: Session, job: Job, folder: Path) -> str | None:
    """Store the file and its row, in the transaction that ends the job; its id, or None for a job without metrics."""
    rows = _rows(db, job)
    if not rows:
        return None
    content = _csv(rows)
    file_id = f"file-{job.id.removeprefix('ftjob-')}"
    row = files.put(content, folder, file_id, tenant=job.tenant, filename=f"{job.id}.csv", purpose=PURPOSE)
    db.add(row)
    return row.id


def _rows(db: Session, job: Job) -> list[dict[str, Any]]:
    """One row per step, of the last attempt that came to it."""
    chosen = select(Event.data).where(Event.job == job.id, Event.kind == "metrics").order_by(Event.number)
    steps: dict[int, dict[str, Any]] = {}
    for data in db.scalars(chosen):
        if data and isinstance(data.get("step"), int):
            accuracy = {"train_accuracy": data[ACCURACY]} if ACCURACY in data else {}
            steps[data["step"]] = {**steps.get(data["step"], {}), **accuracy, **data}
    return [steps[step] for step in sorted(steps)]


def _csv(rows: list[dict[str, Any]]) -> bytes:
    numbers = [{k: v for k, v in row.items() if isinstance(v, int | float) and k not in LEFT_OUT} for row in rows]
    own = sorted({name for row in numbers for name in row} - set(COLUMNS))
    text = io.StringIO()
    table = csv.DictWriter(text, [*COLUMNS, *own], restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(numbers)
    return text.getvalue().encode()
