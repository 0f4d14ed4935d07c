"""A set-up as steps that are done once: each leaves a stamp of its inputs, so that a second run does what changed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class StepFailed(Exception):
    """A program of a step ended in error; the message holds the end of what it printed."""


@dataclass(frozen=True)
class Step:
    """Something to do unless `stamp` says that it was done with the very same inputs."""

    title: str
    stamp: Path
    inputs: tuple[str, ...]
    action: Callable[[], None]

    @property
    def digest(self) -> str:
        """Of the inputs."""
        return hashlib.sha256("\0".join(self.inputs).encode()).hexdigest()

    @property
    def done(self) -> bool:
        """Whether the stamp is that of these inputs."""
        return self.stamp.is_file() and self.stamp.read_text() == self.digest

    def run(self) -> None:
        """Do it, with one line that says what and how long; an interrupted step is done again next time."""
        print(f"  {self.title} ...", end=" ", flush=True)
        began = time.monotonic()
        self.stamp.unlink(missing_ok=True)
        try:
            self.action()
        except BaseException:
            print("failed", flush=True)
            raise
        self.stamp.parent.mkdir(parents=True, exist_ok=True)
        self.stamp.write_text(self.digest)
        print(f"{time.monotonic() - began:.0f} s", flush=True)


def program(argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
    """Run a program quietly; raises StepFailed with the end of its output if it fails."""
    words = [str(word) for word in argv]
    done = subprocess.run(
        words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        tail = "\n".join(f"    {line}" for line in done.stdout.splitlines()[-25:])
        raise StepFailed(f"`{Path(words[0]).name} {' '.join(words[1:4])} ...` ended with {done.returncode}:\n{tail}")


def run_all(steps: Sequence[Step]) -> int:
    """Do the steps that are not done, in order; 0, or 1 with the reason printed."""
    todo = [step for step in steps if not step.done]
    try:
        for step in todo:
            step.run()
    except StepFailed as failure:
        print(f"\nSet-up stopped. {failure}\nRun it again to go on from here.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run it again to go on from here.", file=sys.stderr)
        return 130
    return 0
