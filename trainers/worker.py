"""`python -m trainers.worker spec.json out/`: one rank of one attempt, under torchrun or alone.

Exit status: 0 the manifest is written, 143 stopped by SIGTERM after a checkpoint, 1 failed; in the latter two cases
`out/outcome.json` says why. The token for events comes in PREFSERVE_ATTEMPT_TOKEN.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from trainers.errors import Unusable
from trainers.events import Events, Progress, Silence
from trainers.protocol import OUTCOME, TOKEN
from trainers.spec import Assignment
from trainers.stopping import STOPPED, StopSignal, end_with_launcher


def main(argv: list[str] | None = None) -> int:
    """Run one attempt; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainers.worker", description="Run one attempt of a job.")
    parser.add_argument("spec", type=Path, help="spec.json, an Assignment")
    parser.add_argument("out", type=Path, help="the attempt's folder")
    args = parser.parse_args(argv)
    speaks = os.environ.get("RANK", "0") == "0"
    stop = StopSignal()
    end_with_launcher()
    if speaks:
        (args.out / OUTCOME).unlink(missing_ok=True)  # of a launch that this one continues
    assignment = Assignment.model_validate_json(args.spec.read_text())
    token = os.environ.pop(TOKEN, "")
    progress: Progress = Events(args.out, assignment.events_url, token) if speaks else Silence()
    try:
        return _attempt(assignment, args.out, progress, stop)
    finally:
        progress.close()


def _attempt(assignment: Assignment, out: Path, progress: Progress, stop: StopSignal) -> int:
    progress.say(f"Loading {assignment.base_model}")
    _quieten()
    try:
        from trainers.tuning import tune  # seconds of imports, after the first words are out

        ending = tune(assignment, out, progress, stop)
    except Unusable as error:
        return _failed(out, progress, error.message, error.code, error.param)
    except Exception as error:  # the process ends here: what happened must reach the job's owner
        traceback.print_exc()
        sentence = f"the training stopped with an error of its own, {type(error).__name__}: {error}"
        return _failed(out, progress, sentence[:4000], "worker_error", None)
    if ending.stopped:
        _leave(out, {"state": "stopped", "step": ending.step})
        progress.say(f"Stopped after step {ending.step}")
        return STOPPED
    progress.say("Done")
    return 0


def _failed(out: Path, progress: Progress, message: str, code: str, param: str | None) -> int:
    _leave(out, {"state": "failed", "error": {"message": message, "code": code, "param": param}})
    progress.say(message, level="error")
    return 1


def _leave(out: Path, outcome: dict[str, Any]) -> None:
    """Say it once for all ranks: the first to end knows the cause, the others only that it has gone."""
    mine = out / f"{OUTCOME}.{os.getpid()}"
    mine.write_text(json.dumps(outcome))
    with contextlib.suppress(FileExistsError):
        os.link(mine, out / OUTCOME)
    mine.unlink()


def _quieten() -> None:
    """A job's owner reads this log: events, and what has gone wrong."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it found nothing better
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


if __name__ == "__main__":
    sys.exit(main())
