"""Cells to results: every measurement in a process of its own, kept as soon as it is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import workload
from bench.cells import Cell, Side
from bench.side import Asked
from bench.workload import Scale

#: seconds after which a measurement counts as hanging
PATIENCE = 3600


class Failed(RuntimeError):
    """A measurement ended without a result."""


@dataclass(frozen=True)
class Plan:
    """How cells are measured, in which folder; what is finished there is not run again."""

    out: Path
    scale: Scale
    alternations: int
    threads: int
    side_by_side: bool  #: both sides of a cell at once: quicker, and no measurement of speed

    def begin(self) -> None:
        """Make the folder, or refuse one that holds results of another plan."""
        said = {**asdict(self), "out": None}
        mark = self.out / "plan.json"
        self.out.mkdir(parents=True, exist_ok=True)
        if not mark.exists():
            mark.write_text(json.dumps(said))
        if json.loads(mark.read_text()) != said:
            raise SystemExit(f"{self.out} holds results of other settings; give another --out or remove it")
        workload.write(self.out / "data", self.scale)

    def measure(self, cell: Cell) -> dict[str, list[dict[str, Any]]]:
        """`ours` and `other`, in turns: a result for each alternation."""
        turns = [(turn, name) for turn in range(self.alternations) for name in ("ours", "other")]
        with ThreadPoolExecutor(2 if self.side_by_side else 1) as pool:
            results = list(pool.map(lambda turn: self._once(cell, turn[1], turn[0]), turns))
        return {name: [r for (_, n), r in zip(turns, results, strict=True) if n == name] for name in ("ours", "other")}

    def _once(self, cell: Cell, name: str, turn: int) -> dict[str, Any]:
        folder = self.out / cell.name
        result = folder / f"{name}-{turn}.json"
        if not result.exists():
            folder.mkdir(exist_ok=True)
            self._run(cell, getattr(cell, name), result)
        kept: dict[str, Any] = json.loads(result.read_text())
        return kept

    def _run(self, cell: Cell, side: Side, result: Path) -> None:
        pairs = workload.draw_pairs(self.scale, cell.lengths)
        steps = workload.batches(pairs, self.scale, cell.order)
        scratch = result.with_suffix(".scratch")
        shutil.rmtree(scratch, ignore_errors=True)
        data = self.out / "data"
        file = data / f"{cell.lengths}{'-answers' if cell.answers else ''}.jsonl"
        asked = Asked(side, cell.peft, self.scale, file, data / "model", steps, self.threads, scratch)
        asked.write(result.with_suffix(".asked"))
        started = time.monotonic()
        say(f"{cell.name}: {result.stem} …")
        run(["bench.side", str(result.with_suffix(".asked")), str(result)], self.threads, result.with_suffix(".log"))
        say(f"{cell.name}: {result.stem} took {time.monotonic() - started:.0f} s")
        shutil.rmtree(scratch, ignore_errors=True)


def run(module: list[str], threads: int, log: Path) -> None:
    """`python -m module` with so many threads; Failed with the end of its log where it fails."""
    with log.open("wb") as sink:
        done = subprocess.run(
            [sys.executable, "-m", *module],
            stdout=sink,
            stderr=sink,
            env=_environment(threads),
            timeout=PATIENCE,
            cwd=Path(__file__).parents[1],
            check=False,
        )
    if done.returncode:
        raise Failed(f"{' '.join(module)} ended with status {done.returncode}:\n{log.read_text()[-3000:]}")


def _environment(threads: int) -> dict[str, str]:
    """As the launcher's: no network, the compiled extensions beside the environment."""
    extensions = os.environ.get("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_EXTENSIONS_DIR": extensions,
    }


def say(line: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
