"""How the demo says where it is: one line per stage, with its result and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

WIDTH = 10  #: of the stages' names


@dataclass
class Stage:
    """What is under way; its `result` is printed when it ends well."""

    result: str = ""


@dataclass
class Stages:
    """Numbers the stages and prints them."""

    console: Console
    count: int = field(default=0, init=False)

    @contextmanager
    def stage(self, name: str, doing: str) -> Iterator[Stage]:
        """A line that spins while the block runs and stays with the block's result."""
        self.count += 1
        began, stage = time.monotonic(), Stage()
        with self.console.status(f"{name}: {doing}"):
            yield stage
        self.line(name, stage.result, time.monotonic() - began)

    def line(self, name: str, result: str, seconds: float) -> None:
        """The line that stays."""
        head = f"[bold]{self.count}  {name:<{WIDTH}}[/]"
        self.console.print(f"{head} {result} [dim]{seconds:.0f} s[/]", soft_wrap=True, highlight=False)


class Bar:
    """A bar with a text beside it that tells the latest figures."""

    def __init__(self, console: Console, name: str) -> None:
        columns = (TextColumn(f"   {name}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
        self._progress = Progress(*columns, console=console, transient=True)
        self._task: TaskID = self._progress.add_task(name, total=None, told="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: float | None, total: float | None, told: str) -> None:
        """Move the bar; None leaves a number as it was."""
        self._progress.update(self._task, completed=done, total=total, told=told)
