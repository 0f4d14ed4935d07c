"""SIGTERM as a wish that is looked at between steps. Torch-free."""

from __future__ import annotations

import signal
from types import FrameType

#: exit status of a process that SIGTERM ended in good order
STOPPED = 128 + signal.SIGTERM


class StopSignal:
    """Takes SIGTERM over for this process and remembers that it came."""

    def __init__(self) -> None:
        self.requested = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
