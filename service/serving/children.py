"""Servers that the control plane starts on loopback: one per folder, started afresh, found and ended after a crash."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from service import processes
from service.processes import Process
from service.sentences import without_paths

PREVIOUS_LOG = "log.previous.txt"
GRACE_SECONDS = 10.0

_PREFIX = re.compile(r"^\(\w+ pid=\d+\) (?:[A-Z]+ [\d-]+ [\d:]+ (?:\[[^\]]*\] )?)?")
_CAUSE = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Exit)\b: *\S")
#: raised by the process that waited; the cause stands elsewhere in the log
_CONSEQUENCES = ("initialization failed", "See root cause above", "Cancelled", "died unexpectedly")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_afresh(folder: Path, argv: Sequence[str], env: Mapping[str, str]) -> Process:
    """End what still runs in the folder, put its log aside, start the program there. OSError if it cannot start."""
    end_orphan(folder)
    log = folder / processes.LOG
    if log.exists():
        log.replace(folder / PREVIOUS_LOG)
    return processes.start(folder, argv, env)


def end_orphan(folder: Path) -> bool:
    """End the process that an earlier control plane left in the folder; whether there was one."""
    process = processes.find(folder)
    if process is None:
        return False
    found = process.alive
    process.stop(GRACE_SECONDS)
    return found


def last_words(folder: Path) -> str:
    """Why the folder's process ended, from its log: the errors it named last, else its last lines; no paths."""
    lines = [_PREFIX.sub("", line).strip() for line in processes.log_tail(folder, lines=400).splitlines()]
    named = [line for line in lines if _CAUSE.match(line) and not any(c in line for c in _CONSEQUENCES)]
    chosen = list(dict.fromkeys(named))[-2:] or [line for line in lines if line][-3:]
    return without_paths("; ".join(line[:400] for line in chosen)) or "it printed nothing"
