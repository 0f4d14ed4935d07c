"""Reward against KL, one curve a method and one point a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # before pyplot chooses a display that may not be there
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.real_input import Row

INK, FAINT = "#1f2933", "#d5dae1"
COLOURS = ("#2a6fbb", "#c8611f", "#2e8b57", "#8e44ad", "#b8860b", "#c2185b", "#546e7a")
MARKERS = "osD^vP*"
PANELS = (("afinn", "AFINN sum, the reward of the pairs"), ("vader_unseen", "VADER words that AFINN does not have"))


def draw(runs: Iterable[Row], path: Path) -> None:
    """Mean reward of fresh samples and its standard error against the sequence KL; the base model is the cross."""
    points: dict[str, list[Row]] = defaultdict(list)
    base: list[Row] = []
    for run in runs:
        if run["family"] == "afinn":
            (points[run["series"]] if "series" in run else base).append(run["judged"])
    figure, axes = plt.subplots(1, len(PANELS), figsize=(10, 4), layout="constrained")
    for axis, (reward, title) in zip(axes, PANELS, strict=True):
        for place, (series, found) in enumerate(points.items()):
            _curve(axis, series, found, reward, place)
        for judged in base:
            axis.plot(0, judged[reward]["mean"], "x", color=INK, markersize=8, label="base model")
        _dress(axis, title)
    axes[0].legend(frameon=False, fontsize=8, labelcolor=INK)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _curve(axis: Axes, series: str, found: list[Row], reward: str, place: int) -> None:
    found = sorted(found, key=lambda judged: judged["kl"]["mean"])
    x, y = [[judged[name]["mean"] for judged in found] for name in ("kl", reward)]
    dx, dy = [[judged[name]["se"] for judged in found] for name in ("kl", reward)]
    style = {"color": COLOURS[place], "marker": MARKERS[place], "markersize": 5, "linewidth": 1.2, "elinewidth": 0.6}
    axis.errorbar(x, y, xerr=dx, yerr=dy, label=series, **style)  # type: ignore[arg-type]


def _dress(axis: Axes, title: str) -> None:
    axis.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
    axis.set_xlabel("KL(π ‖ π_ref), nats per sample", fontsize=9, color=INK)
    axis.set_ylabel("mean of fresh samples", fontsize=9, color=INK)
    axis.tick_params(labelsize=8, colors=INK)
    axis.grid(color=FAINT, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
