"""`python -m bench.offline --json`: this project's offline training against TRL's, a dense one's, and itself.

Prints one JSON line; progress goes to stderr. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench import report, workload
from bench.cells import CELLS, QUICK, Cell, unavailable
from bench.measure import Failed, Plan, run, say

CHECKS_PATH = "the path, not the targets: a small model, two steps, both sides at once"
CHECKS_TARGETS = "the targets"
FAIRNESS = {
    "same": "model, pairs, batches and their order, fresh adapter, AdamW, learning rates, clipping, threads, precision",
    "ours": "a job's worker up to its last step: DeepSpeed ZeRO-2 with one rank, this service's defaults",
    "trl": "TRL's DPOTrainer without DeepSpeed, which on one device only costs it time",
    "dense": "plain PyTorch: padded batches, every logit of policy and reference",
    "counted": "all steps after the first, and the one-off pass over the reference where a side makes one",
}


def main(argv: list[str] | None = None) -> int:
    """Run the cells; the exit status."""
    args = _parser().parse_args(argv)
    with contextlib.redirect_stdout(sys.stderr):  # libraries print as they are imported
        line = _line(args)
    sys.stdout.write(json.dumps(line) + "\n")
    return bool(line["failed"])


def _line(args: argparse.Namespace) -> dict[str, Any]:
    plan = _plan(args)
    began = time.monotonic()
    plan.begin()
    line: dict[str, Any] = {"benchmark": "offline", "quick": args.quick}
    line |= {"checks": CHECKS_PATH if args.quick else CHECKS_TARGETS, "compared": FAIRNESS}
    line |= report.surroundings(plan.threads) | {"model": asdict(plan.scale), "alternations": plan.alternations}
    cells, skipped = _chosen(args.cells or (list(QUICK) if args.quick else [cell.name for cell in CELLS]))
    gemm = {lengths: _gemm(plan, lengths) for lengths in sorted({cell.lengths for cell in cells})}
    line |= {"gemm_gflops": {name: rate / 1e9 for name, rate in gemm.items()}, "skipped": skipped, "failed": {}}
    line["cells"] = {}
    for cell in cells:
        try:
            measured = plan.measure(cell)
        except Failed as error:
            say(str(error))
            line["failed"][cell.name] = str(error).splitlines()[0]
            continue
        line["cells"][cell.name] = report.figures(cell, plan.scale, measured, gemm[cell.lengths])
        say(f"{cell.name}: {line['cells'][cell.name]['ratio']:.2f}x")
    line["seconds"] = time.monotonic() - began
    return line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.offline", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON line on stdout; there is no other output")
    parser.add_argument("--quick", action="store_true", help="check the path within a minute")
    parser.add_argument("--cells", nargs="+", metavar="NAME", help="these only: " + ", ".join(c.name for c in CELLS))
    parser.add_argument("--out", type=Path, help="results folder; what is finished there is not run again")
    parser.add_argument("--threads", type=int, default=2, help="of each side")
    parser.add_argument("--epochs", type=int, help="instead of the benchmark's own")
    parser.add_argument("--alternations", type=int, help="instead of the benchmark's own")
    return parser


def _plan(args: argparse.Namespace) -> Plan:
    import torch

    scale = workload.QUICK if args.quick else workload.LARGE if torch.cuda.is_available() else workload.USUAL
    if args.epochs:
        scale = replace(scale, epochs=args.epochs)
    out = args.out or Path(tempfile.mkdtemp(prefix="bench-"))
    say(f"results in {out}")
    threads = 1 if args.quick else args.threads
    return Plan(out, scale, args.alternations or (1 if args.quick else 2), threads, side_by_side=args.quick)


def _chosen(names: list[str]) -> tuple[list[Cell], dict[str, str]]:
    known = {cell.name: cell for cell in CELLS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"no cell is called {unknown[0]!r}; there are {', '.join(known)}")
    reasons = {name: unavailable(known[name]) for name in names}
    return [known[name] for name in names if reasons[name] is None], {n: why for n, why in reasons.items() if why}


def _gemm(plan: Plan, lengths: str) -> float:
    """FLOP/s of the model's matrix products on this machine, measured once per folder."""
    kept = plan.out / f"gemm-{lengths}.json"
    if not kept.exists():
        command = ["bench.flops", str(plan.out / "data" / "scale.json"), lengths, str(kept)]
        run(command, plan.threads, plan.out / f"gemm-{lengths}.log")
    return float(json.loads(kept.read_text()))


if __name__ == "__main__":
    sys.exit(main())
