"""`python -m bench.side asked.json result.json`: one measurement, in a process whose peak memory is its own."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.cells import Peft, Side
from bench.workload import Scale

#: of every side
LEARNING_RATES: dict[Peft, float] = {"full": 5e-5, "lora": 3e-4}
BETA, RANK, ALPHA, CLIP, SEED, LOGGING_STEPS = 0.1, 16, 32, 1.0, 0, 10


@dataclass(frozen=True)
class Asked:
    """One measurement."""

    side: Side
    peft: Peft
    scale: Scale
    pairs: Path  #: preference pairs, a JSON object a line
    model: Path
    steps: Sequence[Sequence[int]]  #: indices of each step's pairs; the first step warms up
    threads: int
    scratch: Path

    @classmethod
    def read(cls, path: Path) -> Asked:
        """As `write` left it."""
        raw = json.loads(path.read_text())
        raw |= {"side": Side(**raw["side"]), "scale": Scale(**raw["scale"])}
        return cls(**raw | {name: Path(raw[name]) for name in ("pairs", "model", "scratch")})

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), default=str))

    @property
    def learning_rate(self) -> float:
        """Falls linearly to 0 over all steps, warm-up step included."""
        return LEARNING_RATES[self.peft]


@dataclass(frozen=True)
class Result:
    """What was seen."""

    train_seconds: float  #: of all steps after the first
    reference_seconds: float  #: of the pass before the training, where there is one
    losses: list[float]  #: of every step, before it
    peak_mb: float  #: resident memory at its highest, or allocated memory of the accelerator
    before_mb: float  #: resident memory when the training began: programs, model, optimiser not yet
    started_seconds: float  #: from the process's start to the first step: imports, loading, reference pass


class Clock:
    """When steps ended, and each step's loss: filled by either trainer."""

    def __init__(self) -> None:
        self.born = time.perf_counter()
        self.began = self.born
        self.before_mb = 0.0
        self.reference_seconds = 0.0
        self._ends: list[float] = []
        self._losses: list[Any] = []

    def begin(self) -> None:
        """The first step is about to start."""
        self.began, self.before_mb = time.perf_counter(), _resident("VmRSS")

    def add_loss(self, loss: Any) -> None:
        """A part of the step's loss; its parts are summed."""
        if len(self._losses) == len(self._ends):
            self._losses.append(0.0)
        self._losses[-1] = self._losses[-1] + loss.detach().float()

    def end_step(self) -> None:
        """The optimiser has stepped."""
        _wait()
        self._ends.append(time.perf_counter())

    def result(self) -> Result:
        """After the last step."""
        return Result(
            train_seconds=self._ends[-1] - self._ends[0],
            reference_seconds=self.reference_seconds,
            losses=[float(loss) for loss in self._losses],
            peak_mb=_peak(),
            before_mb=self.before_mb,
            started_seconds=self.began - self.born,
        )


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak() -> float:
    """MiB; not getrusage, which also counts what the parent had when it started this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return _resident("VmHWM")


def _resident(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def clocked(trainer: type) -> type:
    """A transformers Trainer class that keeps a `clock` of its class."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc]
        def __init__(self, clock: Clock) -> None:
            self._clock = clock

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self._clock.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self._clock.end_step()

    class Clocked(trainer):  # type: ignore[misc]
        clock: Clock

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.add_callback(Steps(self.clock))

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            self.clock.add_loss(loss)
            return loss

    return Clocked


def draw_adapter(model: Any) -> None:
    """The same fresh LoRA whoever built it: A drawn in the order of the layers, B zero."""
    import torch

    draw = torch.Generator().manual_seed(SEED)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            start = torch.randn(parameter.shape, generator=draw) / parameter.shape[1] ** 0.5
            parameter.data.copy_(start)


def main(argv: list[str]) -> int:
    """Run one measurement; the exit status."""
    clock = Clock()
    asked = Asked.read(Path(argv[0]))
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch

    torch.set_num_threads(asked.threads)
    if asked.side.engine == "ours":
        from bench.ours import train
    elif asked.side.engine == "trl":
        from bench.peer import train
    else:
        from bench.dense import train
    train(asked, clock)
    partial = Path(argv[1]).with_suffix(".partial")
    partial.write_text(json.dumps(asdict(clock.result())))
    partial.rename(argv[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
