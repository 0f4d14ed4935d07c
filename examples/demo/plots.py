"""The run's curves as one PNG: loss, reward margin, KL, and the mask where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # before pyplot chooses a display that may not be there
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

INK, FAINT, BLUE, ORANGE = "#1f2933", "#d5dae1", "#2a6fbb", "#c8611f"
#: title, unit, (metric, colour, label) of each panel
PANELS: tuple[tuple[str, str, tuple[tuple[str, str, str], ...]], ...] = (
    ("Loss", "nats per pair", (("train_loss", BLUE, ""),)),
    ("Reward margin", "chosen - rejected", (("rewards/margins", BLUE, ""),)),
    (
        "KL from the reference",
        "nats per answer",
        (("sampled/kl/chosen", BLUE, "chosen"), ("sampled/kl/rejected", ORANGE, "rejected")),
    ),
    ("Mask", "over answer tokens", (("mask/mean", BLUE, "mean weight"), ("mask/density", ORANGE, "share above 0"))),
)


def draw(curve: Sequence[dict[str, float]], title: str, path: Path) -> Path:
    """Write the panels whose metrics were logged; one point per logged step."""
    panels = [panel for panel in PANELS if any(metric in curve[-1] for metric, _, _ in panel[2])]
    figure, axes = plt.subplots(1, len(panels), figsize=(3.3 * len(panels), 2.9), layout="constrained", squeeze=False)
    for axis, (name, unit, lines) in zip(axes[0], panels, strict=True):
        _panel(axis, curve, lines)
        axis.set_title(name, loc="left", fontsize=10, color=INK, fontweight="bold")
        axis.set_ylabel(unit, fontsize=8, color=INK)
    figure.suptitle(title, x=0.01, ha="left", fontsize=9, color=INK)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _panel(axis: Axes, curve: Sequence[dict[str, float]], lines: Sequence[tuple[str, str, str]]) -> None:
    for metric, colour, label in lines:
        points = [(step["step"], step[metric]) for step in curve if metric in step]
        axis.plot(*zip(*points, strict=True), color=colour, linewidth=1.6, label=label)
    if len(lines) > 1:
        axis.legend(frameon=False, fontsize=8, labelcolor=INK)
    axis.set_xlabel("step", fontsize=8, color=INK)
    axis.tick_params(labelsize=8, colors=INK)
    axis.grid(axis="y", color=FAINT, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
