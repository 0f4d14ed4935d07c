"""SIGTERM as a wish that is looked at between steps. Torch-free."""

from __future__ import annotations

import ctypes
import signal
from types import FrameType

PR_SET_PDEATHSIG = 1
#: exit status of a process that SIGTERM ended in good order
STOPPED = 128 + signal.SIGTERM


def end_with_launcher() -> None:
    """Have the system send this process SIGTERM when torchrun, its parent, has gone without it (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class StopSignal:
    """Takes SIGTERM over for this process and remembers that it came."""

    def __init__(self) -> None:
        self.requested = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
