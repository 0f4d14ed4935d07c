"""Servers that the control plane starts on loopback: one per folder, started afresh, found and ended after a crash."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from service import processes
from service.processes import Process

#: what a child may know of this process's environment: no secrets, no proxies, no settings of ours
KEPT = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE",
    "XDG_CACHE_HOME", "VLLM_CACHE_ROOT", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
)  # fmt: skip
PREVIOUS_LOG = "log.previous.txt"
GRACE_SECONDS = 10.0

_PREFIX = re.compile(r"^\(\w+ pid=\d+\) (?:[A-Z]+ [\d-]+ [\d:]+ (?:\[[^\]]*\] )?)?")
_CAUSE = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Exit)\b: *\S")
#: raised by the process that waited; the cause stands elsewhere in the log
_CONSEQUENCES = ("initialization failed", "See root cause above", "Cancelled", "died unexpectedly")
_PATH = re.compile(r"(?<![\w:/.])/(?:[\w.@%+ -]*[\w.@%+-]/)+[\w.@%+-]*")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(python: Path) -> dict[str, str]:
    """The kept part of this process's environment, with the interpreter's own programs first on the path."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return kept | {"PATH": f"{python.parent}{os.pathsep}{kept.get('PATH', os.defpath)}", "PYTHONUNBUFFERED": "1"}


def start_afresh(folder: Path, argv: Sequence[str], env: Mapping[str, str]) -> Process:
    """End what still runs in the folder, put its log aside, start the program there. OSError if it cannot start."""
    end_orphan(folder)
    log = folder / processes.LOG
    if log.exists():
        log.replace(folder / PREVIOUS_LOG)
    return processes.start(folder, argv, env)


def end_orphan(folder: Path) -> bool:
    """End the process that an earlier control plane left in the folder; whether there was one.

    A leader that has died may have left its group behind: the group is ended too, unless its number
    has come to belong to another process.
    """
    process = processes.find(folder)
    if process is None or (not process.alive and Path(f"/proc/{process.pid}").exists()):
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


def without_paths(text: str) -> str:
    """The text with absolute paths of this machine taken out."""
    return _PATH.sub("(path)", text)
