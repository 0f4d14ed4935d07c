"""`make check`: every check, each to its end, so that one run shows all there is to mend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
CHECKS = (
    ("lint", [BIN / "ruff", "check", "."]),
    ("format", [BIN / "ruff", "format", "--check", "."]),
    ("types", [BIN / "mypy"]),
    ("types of examples, scripts and benchmarks", [BIN / "mypy", "-p", "examples", "-p", "scripts", "-p", "bench"]),
    ("import rules", [BIN / "lint-imports", "--no-logo"]),
    ("pins", [sys.executable, "-m", "scripts.check_constraints"]),
)


def main() -> int:
    """Print one line per check, and the output of those that fail; returns the exit status."""
    failed = [title for title, command in CHECKS if not passes(title, [str(word) for word in command])]
    return bool(failed)


def passes(title: str, command: list[str]) -> bool:
    """Run one check."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(f"  {title}: {'failed' if done.returncode else 'ok'}", flush=True)
    if done.returncode:
        print(done.stdout, flush=True)
    return not done.returncode


if __name__ == "__main__":
    sys.exit(main())
