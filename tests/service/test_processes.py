"""Child processes: found again, told apart from strangers with the same number, ended with their children."""

import os
import signal
import sys
import time
from pathlib import Path

from service import processes
from service.processes import Process

SLEEP = [
    sys.executable,
    "-c",
    "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('up'); time.sleep(60)",
]


def test_a_started_process_is_found_again_and_stops_with_its_children(tmp_path):
    process = processes.start(tmp_path, SLEEP, {"PYTHONUNBUFFERED": "1"})
    while "up" not in processes.log_tail(tmp_path):
        time.sleep(0.02)
    assert processes.find(tmp_path) == process
    assert process.alive
    process.stop(grace=5)
    assert not process.alive
    members = [p for p in os.listdir("/proc") if p.isdecimal() and _session(p) == process.pid]
    assert members == []


def test_a_number_that_now_belongs_to_another_process_is_not_ours():
    assert not Process(os.getpid(), started=1).alive


def test_a_process_that_ignores_the_polite_stop_is_killed(tmp_path):
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(60)"
    process = processes.start(tmp_path, [sys.executable, "-uc", program], {})
    while "up" not in processes.log_tail(tmp_path):
        time.sleep(0.02)
    process.stop(grace=0.2)
    deadline = time.monotonic() + 5
    while process.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not process.alive


def test_signals_to_a_process_long_gone_are_no_error():
    Process(2**22 - 3, started=1).signal_group(signal.SIGTERM)


def _session(pid: str) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[3]) if fields[0] not in "ZX" else None
