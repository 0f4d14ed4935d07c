"""`python -m bench.frontier --json`: what the methods do on real input, trained and judged through the service.

Preference methods: mean reward against sequence KL. Supervised methods: cross-entropy and KL on sums. Prints one JSON
line; progress goes to stderr. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import evaluate, frontier_picture, frontier_runs, real_input, sentiment
from bench.frontier_runs import RUNS, Family, Run
from bench.measure import say
from bench.real_input import Row
from bench.served import BASE, Served
from examples.demo import control_plane
from examples.demo.tuning import JobFailed

MODEL = "stories260k-hd32"
#: of the model's own samples: drawn, and made pairs of
DRAWN, PAIRS = 512, 224


def main(argv: list[str] | None = None) -> int:
    """Do what is not done yet; the exit status."""
    args = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what runs is stopped, as after Ctrl-C
    out = args.out or Path(tempfile.mkdtemp(prefix="frontier-"))
    out.mkdir(parents=True, exist_ok=True)
    say(f"results in {out}")
    wanted = [run for run in RUNS if not args.only or run.name in args.only or run.family in args.only]
    failed = _do([run for run in wanted if not (out / f"{run.name}.json").exists()], out)
    done = {run.name: json.loads(path.read_text()) for run in RUNS if (path := out / f"{run.name}.json").exists()}
    if args.picture:
        frontier_picture.draw([done[run.name] for run in RUNS if run.name in done], args.picture)
    line = {"benchmark": "frontier", "model": MODEL, "pairs": PAIRS, "runs": done, "failed": failed}
    sys.stdout.write(json.dumps(line) + "\n")
    return bool(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.frontier", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON line on stdout; there is no other output")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these runs or families: afinn, harmless, sums")
    parser.add_argument("--out", type=Path, help="results folder; what is finished there is not run again")
    parser.add_argument("--picture", type=Path, help="draw the frontier there")
    return parser


def _do(runs: list[Run], out: Path) -> dict[str, str]:
    """Train and judge each run; what failed, and why."""
    failed: dict[str, str] = {}
    if not runs:
        return failed
    home = Path(tempfile.mkdtemp(prefix="home-", dir=out))
    data = real_input.folder()
    control_plane.register(home, BASE, data / "models" / MODEL)
    with control_plane.running(home) as plane:
        bench = Bench(Served(plane), data, out)
        for run in runs:
            began = time.monotonic()
            try:
                result = bench.run(run)
            except JobFailed as error:
                failed[run.name] = str(error)
                say(f"{run.name} failed: {error}")
                continue
            _keep(out / f"{run.name}.json", result | {"seconds": round(time.monotonic() - began, 1)})
            say(f"{run.name}: {time.monotonic() - began:.0f} s, {json.dumps(result['judged'])[:300]}")
    return failed


@dataclass(frozen=True)
class Bench:
    """Runs on one service."""

    served: Served
    data: Path
    out: Path

    def run(self, run: Run) -> Row:
        """Train, unless it is the base model itself, and judge."""
        rows = self._rows(run.family)
        if run.method is None:
            return {"run": run.name, "family": run.family, "judged": self._judged(run.family, BASE)}
        tuned, said = self.served.tune(rows, run.method, dict(run.settings))
        result = {
            "run": run.name,
            "family": run.family,
            "series": run.series,
            "method": run.method,
            "settings": run.settings,
            "first_step": tuned.curve[0],
            "last_step": tuned.curve[-1],
            "said": said,
            "judged": self._judged(run.family, tuned.policy),
        }
        return result | self._masks(run, tuned.job)

    def _rows(self, family: Family) -> list[Row]:
        return frontier_runs.training(family, self.data, self._afinn_pairs)

    def _afinn_pairs(self) -> list[Row]:
        samples = self._kept("samples", lambda: self.served.stories(BASE, DRAWN, evaluate.TOKENS, seed=0))
        words = self._lexicons()["afinn"]
        return real_input.best_against_worst(samples, lambda text: sentiment.worth(text, words), PAIRS)

    def _lexicons(self) -> dict[str, dict[str, float]]:
        afinn = sentiment.read_lexicon(self.data / "afinn" / "AFINN-111.txt")
        vader = sentiment.read_lexicon(self.data / "vader" / "vader_lexicon.txt")
        return {"afinn": afinn, "vader": vader, "vader_unseen": sentiment.without(vader, afinn)}

    def _judged(self, family: Family, policy: str) -> Row:
        if family == "afinn":
            return evaluate.stories(self.served, policy, self._lexicons(), seed=1)
        held_out = frontier_runs.held_out(family, self.data)
        if family == "harmless":
            return evaluate.pairs(self.served, policy, held_out)
        train = frontier_runs.training(family, self.data, self._afinn_pairs)[: len(held_out)]
        asked = self.served.answers(policy, [row["prompt"] for row in held_out], 64, seed=7)
        base = self._kept("base-stories", lambda: self.served.stories(BASE, 64, evaluate.TOKENS, seed=2))
        return {
            "train": evaluate.answers(self.served, policy, train),
            "held_out": evaluate.answers(self.served, policy, held_out),
            "kl_on_own_answers": evaluate.drift(self.served, policy, policy, asked),
            "kl_on_base_stories": evaluate.drift(self.served, policy, BASE, base),
        }

    def _masks(self, run: Run, job: str) -> dict[str, Any]:
        if run.family != "afinn":
            return {}
        examples, afinn = self.served.masks(job), self._lexicons()["afinn"]
        found = {
            column: sentiment.lit(examples, column, afinn)
            for column in ("mask", "kl_mask", "log_ratio")
            if column in examples[0]["chosen"]
        }
        return {"lit": found}

    def _kept(self, name: str, make: Callable[[], list[Row]]) -> list[Row]:
        path = self.out / f"{name}.json"
        if not path.exists():
            _keep(path, make())
        kept: list[Row] = json.loads(path.read_text())
        return kept


def _keep(path: Path, value: Any) -> None:
    """Whole or not at all."""
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps(value))
    scratch.replace(path)


if __name__ == "__main__":
    sys.exit(main())
