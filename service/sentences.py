"""What is told to callers holds no path of this machine."""

from __future__ import annotations

import re

_PATH = re.compile(r"(?<![\w:/.])/(?:[\w.@%+ -]*[\w.@%+-]/)+[\w.@%+-]*")


def without_paths(text: str) -> str:
    """The text with absolute paths taken out."""
    return _PATH.sub("(path)", text)
