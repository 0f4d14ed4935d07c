"""Attempts as processes of this machine, under torchrun, each in its own folder and session."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service import processes
from service.errors import Unavailable
from service.launchers.base import Outcome, Phase, attempt_name
from service.launchers.starts import Start, inherit, start_of, starting
from service.processes import Process
from trainers.manifest import NAME as MANIFEST
from trainers.protocol import OUTCOME, SPEC, TOKEN, WORKER
from trainers.spec import Assignment

STOP, GPUS, EXTENSIONS = "stop-requested", "gpus.json", "torch_extensions"
#: on CPU a slot is this many processes of one thread each
RANKS_PER_CPU_SLOT = 2


@dataclass(frozen=True)
class LocalLauncher:
    """Runs attempts under `root`, one folder each."""

    root: Path
    python: Path
    extensions_dir: Path
    gpus: tuple[str, ...]
    grace_seconds: float

    def folder(self, name: str) -> Path:
        """The attempt's `out/`: spec, log, checkpoints, artifacts, manifest."""
        return self.root / name

    def launch(self, assignment: Assignment, *, slots: int, token: str) -> None:
        """Start torchrun unless this attempt was started before. Raises Unavailable if GPUs are missing, OSError."""
        out = self.folder(attempt_name(assignment.job, assignment.attempt))
        inherit(self.root, assignment.job, assignment.attempt)
        with start_of(out) as start:
            if start is None:
                return
            (out / SPEC).write_text(assignment.model_dump_json(indent=2))
            with self._gpus_for(out, slots) as gpus:
                ranks = len(gpus) or RANKS_PER_CPU_SLOT * slots
                argv = [str(self.python), "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
                argv += [f"--shutdown-timeout={max(1, round(self.grace_seconds - 2))}"]  # its own is 30 s
                argv += ["-m", WORKER, str(out / SPEC), str(out)]
                environment = self._environment(gpus, token, self._own_extensions(out))
                start.begins()
                processes.start(out, argv, environment)

    def poll(self, name: str) -> Outcome:
        """A living process, else the manifest, else what the workers said last, else that they died."""
        out = self.folder(name)
        begun = starting(out)
        if begun is Start.UNDER_WAY or self._alive(out):
            return Outcome(Phase.RUNNING)
        shutil.rmtree(out / EXTENSIONS, ignore_errors=True)
        if (out / MANIFEST).exists():
            return Outcome(Phase.SUCCEEDED)
        return self._last_words(out) if begun is Start.BEGUN else Outcome(Phase.ABSENT)

    def stop(self, name: str) -> None:
        """SIGTERM once; SIGKILL to every process of the attempt when the grace period has passed."""
        out = self.folder(name)
        asked = out / STOP
        if not asked.exists():
            asked.touch()
            self._signal(out, signal.SIGTERM)
        elif time.time() - asked.stat().st_mtime > self.grace_seconds:
            for process in [*self._alive(out)]:
                process.signal_group(signal.SIGKILL)

    def _signal(self, out: Path, number: signal.Signals) -> None:
        process = processes.find(out)
        if process is not None and process.alive:
            process.signal_group(number)

    def _alive(self, out: Path) -> list[Process]:
        """torchrun and its workers, which have sessions of their own and may outlive it.

        A process just started shows no command line for a moment; torchrun is known by its record too.
        """
        leader, found = processes.find(out), processes.running_with(WORKER, str(out / SPEC))
        return [leader, *found] if leader is not None and leader.alive else found

    def _last_words(self, out: Path) -> Outcome:
        try:
            said = json.loads((out / OUTCOME).read_text())
        except FileNotFoundError:
            sentence = "the training processes died without a word"
            return Outcome(Phase.FAILED, self._with_log(out, {"message": sentence, "code": "worker_died"}))
        error = said.get("error")
        if error and error["code"] == "worker_error":
            error = self._with_log(out, error)
        return Outcome(Phase(said["state"]), error)

    def _with_log(self, out: Path, error: dict[str, str]) -> dict[str, str | None]:
        message = f"{error['message']}; the end of the log:\n{processes.log_tail(out)}"
        return {"param": None, **error, "message": message}

    def _own_extensions(self, out: Path) -> Path:
        """A copy of what DeepSpeed has compiled: torch locks the folder at every start, and a worker that is killed
        in that moment leaves the lock for good."""
        if not self.extensions_dir.is_dir():
            return self.extensions_dir  # nothing was built ahead: the first attempt builds it there
        shutil.rmtree(out / EXTENSIONS, ignore_errors=True)
        shutil.copytree(self.extensions_dir, out / EXTENSIONS, ignore=shutil.ignore_patterns("lock"))
        return out / EXTENSIONS

    def _environment(self, gpus: list[str], token: str, extensions: Path) -> dict[str, str]:
        return processes.environment(self.python, "NCCL_", "GLOO_") | {
            "CUDA_VISIBLE_DEVICES": ",".join(gpus),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // len(gpus))) if gpus else "1",
            TOKEN: token,
            "TOKENIZERS_PARALLELISM": "false",
            "TORCH_EXTENSIONS_DIR": str(extensions),
        }

    @contextmanager
    def _gpus_for(self, out: Path, slots: int) -> Iterator[list[str]]:
        """The first GPUs that no living attempt holds, written down; nobody else takes any until the block ends."""
        if not self.gpus:
            yield []
            return
        with (self.root / "gpus.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            held: set[str] = set()
            for record in self.root.glob(f"*/{GPUS}"):
                if record.parent != out and self._alive(record.parent):
                    held.update(json.loads(record.read_text()))
            taken = [gpu for gpu in self.gpus if gpu not in held][:slots]
            if len(taken) < slots:
                raise Unavailable(f"the attempt needs {slots} GPUs and {len(taken)} are free of training processes")
            (out / GPUS).write_text(json.dumps(taken))
            yield taken
