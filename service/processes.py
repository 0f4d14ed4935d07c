"""Child processes with a deterministic folder: started once, found again after a restart, ended with all they began."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RECORD, LOG = "process.json", "log.txt"
INHERITED = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "XDG_CACHE_HOME", "SSL_CERT_FILE"),
        *("LD_LIBRARY_PATH", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
        "PYTHONDONTWRITEBYTECODE",
    }
)


@dataclass(frozen=True)
class Process:
    """A process in a session of its own; pid and start time together name it for good."""

    pid: int
    started: int  #: clock ticks since boot, from /proc

    @property
    def alive(self) -> bool:
        """Whether that very process still runs (a zombie does not)."""
        return self.started == _started(self.pid)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it started in its session."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return

    def stop(self, grace: float) -> None:
        """SIGTERM to the group, then SIGKILL to what is left of it after `grace` seconds.

        A leader that has died may have left its group behind; a number that now is another process's is left alone.
        """
        if not self.alive and Path(f"/proc/{self.pid}").exists():
            return
        self.signal_group(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.05)
        self.signal_group(signal.SIGKILL)


def start(folder: Path, argv: Sequence[str], env: Mapping[str, str]) -> Process:
    """Run argv in its own session, its output in `folder/log.txt`; `find(folder)` finds it again.

    Raises OSError if the program cannot be started.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / LOG).open("ab") as log:
        child = subprocess.Popen(
            argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    process = Process(child.pid, _started(child.pid) or 0)
    record = folder / f"{RECORD}.new"
    record.write_text(json.dumps(asdict(process)))
    record.replace(folder / RECORD)
    return process


def find(folder: Path) -> Process | None:
    """The process last started in the folder, whoever started it; None if none was."""
    try:
        return Process(**json.loads((folder / RECORD).read_text()))
    except FileNotFoundError:
        return None


def running_with(*arguments: str) -> list[Process]:
    """Every process that has all these words on its command line, whatever session it is in."""
    wanted = {argument.encode() for argument in arguments}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = set((folder / "cmdline").read_bytes().split(b"\0"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        started = _started(int(folder.name)) if wanted <= words else None
        if started is not None:
            found.append(Process(int(folder.name), started))
    return found


def environment(python: Path, *also: str) -> dict[str, str]:
    """What a child may know of this process's environment, with its interpreter's own programs first on the path.

    No secrets and no settings of ours: the names in INHERITED and those that begin with one of `also`.
    """
    kept = {name: value for name, value in os.environ.items() if name in INHERITED or (also and name.startswith(also))}
    return kept | {"PATH": f"{python.parent}{os.pathsep}{kept.get('PATH', os.defpath)}", "PYTHONUNBUFFERED": "1"}


def log_tail(folder: Path, lines: int = 20) -> str:
    """The end of what the process printed."""
    try:
        text = (folder / LOG).read_bytes()[-32_768:].decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _started(pid: int) -> int | None:
    """Start time of a living process; a child that has ended is reaped on the way."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
