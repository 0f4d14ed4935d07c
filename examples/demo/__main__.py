"""`python -m examples.demo`: preference pairs in, a served and scored policy out, and what the run was."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from openai import APIConnectionError, APIStatusError
from rich.console import Console

from examples.demo.control_plane import NotRunning
from examples.demo.driver import CACHE, Options, run
from examples.demo.inputs import SETTINGS
from examples.demo.scoring import Refused
from examples.demo.tuning import JobFailed
from trainers.data.lines import BadLine


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser("python -m examples.demo", description="Preference pairs in, a scored policy out.")
    parser.add_argument("--method", choices=sorted(SETTINGS), default="sparsepo")
    parser.add_argument("--model", type=Path, help="a folder with safetensors, instead of the demo's own model")
    parser.add_argument("--pairs", type=Path, help="preference pairs (JSONL, OpenAI's or TRL's shape); with --model")
    parser.add_argument("--hyperparameters", type=json.loads, default={}, help='JSON, for instance {"beta": 0.2}')
    parser.add_argument("--home", type=Path, help="a new folder for the service's state and the results")
    return parser


def parsed(argv: list[str] | None = None) -> Options:
    """The options; exits with a sentence if they make no sense together."""
    parser = arguments()
    given = parser.parse_args(argv)
    if (given.model is None) != (given.pairs is None):
        parser.error("--model and --pairs belong together")
    for path in (given.model, given.pairs):
        if path is not None and not path.exists():
            parser.error(f"{path} does not exist")
    home = given.home or CACHE / "runs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{given.method}"
    if home.exists():
        parser.error(f"{home} exists: --home takes a new folder")
    return Options(given.method, given.model, given.pairs, given.hyperparameters, home.absolute())


def main() -> int:
    """Run the demo; returns the exit status."""
    options, console = parsed(), Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same orderly end as Ctrl-C
    try:
        figures = run(options, console)
    except KeyboardInterrupt:
        console.print("[bold]Interrupted;[/] everything that was started has been stopped.")
        return 130
    except (APIConnectionError, APIStatusError, BadLine, JobFailed, NotRunning, Refused) as error:
        console.print("[bold red]The demo stopped:[/]", end=" ")
        console.print(str(error), soft_wrap=True, highlight=False, markup=False)
        return 1
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
