"""Attempts as processes of this machine, under torchrun, each in its own folder and session."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from service import processes
from service.launchers.base import Outcome, Phase, attempt_name
from trainers.spec import Assignment

MANIFEST, OUTCOME, STOP, GPUS = "manifest.json", "outcome.json", "stop-requested", "gpus.json"
#: on CPU a slot is this many processes of one thread each
RANKS_PER_CPU_SLOT = 2
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "PYTHONDONTWRITEBYTECODE")


@dataclass(frozen=True)
class LocalLauncher:
    """Runs attempts under `root`, one folder each."""

    root: Path
    python: Path
    extensions_dir: Path
    gpus: int
    grace_seconds: float

    def folder(self, name: str) -> Path:
        """The attempt's `out/`: spec, log, checkpoints, artifacts, manifest."""
        return self.root / name

    def launch(self, assignment: Assignment, *, slots: int, token: str) -> None:
        """Start torchrun unless this attempt's folder says it was started before."""
        out = self.folder(attempt_name(assignment.job, assignment.attempt))
        if processes.find(out) is not None:
            return
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        (out / "spec.json").write_text(assignment.model_dump_json(indent=2))
        gpus = self._take_gpus(out, slots)
        ranks = len(gpus) or RANKS_PER_CPU_SLOT * slots
        argv = [str(self.python), "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        argv += [f"--shutdown-timeout={max(1, round(self.grace_seconds - 2))}"]  # its own is 30 s, then it kills
        argv += ["-m", "trainers.worker", str(out / "spec.json"), str(out)]
        processes.start(out, argv, self._environment(gpus, token))

    def poll(self, name: str) -> Outcome:
        """The manifest, else a living process, else what the workers said last, else that they died."""
        out = self.folder(name)
        process = processes.find(out)
        alive = process is not None and process.alive
        if (out / MANIFEST).exists():
            return Outcome(Phase.RUNNING if alive else Phase.SUCCEEDED)
        if process is None:
            return Outcome(Phase.ABSENT)
        return Outcome(Phase.RUNNING) if alive else self._last_words(out)

    def stop(self, name: str) -> None:
        """SIGTERM once; SIGKILL when the grace period has passed."""
        out = self.folder(name)
        process = processes.find(out)
        if process is None or not process.alive:
            return
        asked = out / STOP
        if not asked.exists():
            asked.write_text(str(time.time()))
            process.signal_group(signal.SIGTERM)
        elif time.time() - float(asked.read_text()) > self.grace_seconds:
            process.signal_group(signal.SIGKILL)

    def _last_words(self, out: Path) -> Outcome:
        try:
            said = json.loads((out / OUTCOME).read_text())
        except FileNotFoundError:
            if (out / STOP).exists():
                return Outcome(Phase.STOPPED)
            tail = processes.log_tail(out)
            sentence = f"the training processes died without a word; the end of their log:\n{tail}"
            return Outcome(Phase.FAILED, {"message": sentence, "code": "worker_died", "param": None})
        return Outcome(Phase(said["state"]), said.get("error"))

    def _environment(self, gpus: list[int], token: str) -> dict[str, str]:
        env = {name: os.environ[name] for name in KEPT if name in os.environ}
        env["PATH"] = f"{self.python.parent}{os.pathsep}{env.get('PATH', os.defpath)}"  # ninja lies beside python
        return env | {
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "4" if gpus else "1",
            "PREFSERVE_ATTEMPT_TOKEN": token,
            "PYTHONUNBUFFERED": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TORCH_EXTENSIONS_DIR": str(self.extensions_dir),
        }

    def _take_gpus(self, out: Path, slots: int) -> list[int]:
        """The lowest GPUs that no living attempt holds, written down for the next look."""
        if not self.gpus:
            return []
        held: set[int] = set()
        for record in self.root.glob(f"*/{GPUS}"):
            process = processes.find(record.parent)
            if process is not None and process.alive:
                held.update(json.loads(record.read_text()))
        taken = [gpu for gpu in range(self.gpus) if gpu not in held][:slots]
        (out / GPUS).write_text(json.dumps(taken))
        return taken
