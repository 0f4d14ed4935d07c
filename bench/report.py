"""Measurements to figures."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from bench import workload
from bench.cells import Cell
from bench.flops import mean_floor
from bench.workload import Scale

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets")
#: FLOP/s of dense bf16 products by the maker's data sheet
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
Results = Sequence[Mapping[str, Any]]


def figures(cell: Cell, scale: Scale, measured: Mapping[str, Results], gemm: float) -> dict[str, Any]:
    """A cell's line: medians over the alternations; ratios are medians of each alternation's ratio."""
    pairs = workload.draw_pairs(scale, cell.lengths)
    steps = workload.batches(pairs, scale, cell.order)
    count = sum(len(step) for step in steps[1:])
    floor = mean_floor(scale, pairs, cell.peft)
    rates = {name: [_rate(result, count) for result in results] for name, results in measured.items()}
    ratios = [a / b for a, b in zip(rates["ours"], rates["other"], strict=True)]
    memory = [a["peak_mb"] / b["peak_mb"] for a, b in zip(measured["ours"], measured["other"], strict=True)]
    line = {
        "ours": _side(measured["ours"], rates["ours"], floor, gemm),
        "other": {"engine": cell.other.engine, "method": cell.other.method, "settings": dict(cell.other.settings)}
        | _side(measured["other"], rates["other"], floor, gemm),
        "ratio": median(ratios),
        "ratios": ratios,
        "target_ratio": cell.target,
        "memory_ratio": median(memory),
        "order": cell.order,
        "padded_over_real": workload.padding(pairs, steps),
        "floor_gflops_per_pair": floor / 1e9,
    }
    return line | ({"loss_difference": _differences(measured)} if cell.same_loss else {})


def _rate(result: Mapping[str, Any], pairs: int) -> float:
    """Pairs/s over the epochs, the pass over the reference counted once."""
    return float(pairs / (result["train_seconds"] + result["reference_seconds"]))


def _side(results: Results, rates: Sequence[float], floor: float, gemm: float) -> dict[str, Any]:
    line = {
        "pairs_per_second": median(rates),
        "peak_mb": median(result["peak_mb"] for result in results),
        "before_training_mb": median(result["before_mb"] for result in results),
        "reference_seconds": median(result["reference_seconds"] for result in results),
        "share_of_floor": median(rates) * floor / gemm,
        "last_loss": results[-1]["losses"][-1],
    }
    peak = next((peak for name, peak in PEAKS.items() if name in _accelerator()), None)
    return line | ({"mfu": median(rates) * floor / peak} if peak else {})


def _differences(measured: Mapping[str, Results]) -> dict[str, float]:
    """The largest at equal steps, over all alternations."""
    couples = [
        (a, b)
        for ours, other in zip(measured["ours"], measured["other"], strict=True)
        for a, b in zip(ours["losses"], other["losses"], strict=True)
    ]
    largest = max(abs(a - b) for a, b in couples)
    return {"absolute": largest, "relative": max(abs(a - b) / abs(b) for a, b in couples)}


def surroundings(threads: int) -> dict[str, Any]:
    """Machine and versions."""
    return {
        "threads": threads,
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "accelerator": _accelerator() or None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "load_before": os.getloadavg()[0],
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""
