"""What a machine must have before anything can be installed, and which Debian package brings it."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

#: oldest version, first version that is not known to work
PYTHONS = ((3, 11), (3, 14))


def missing() -> list[str]:
    """Everything that is absent, each as a phrase with the Debian package that brings it."""
    wanted: dict[str, Callable[[], object]] = {
        "the venv module (python3-venv)": _has_venv,
        "Python's headers (python3-dev)": _has_headers,
        "a C++ compiler (g++)": lambda: shutil.which("g++") or shutil.which("c++"),
        "make (make)": lambda: shutil.which("make"),
    }
    absent = [phrase for phrase, present in wanted.items() if not present()]
    return absent if PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1] else [_other_python(), *absent]


def sentence(absent: list[str]) -> str:
    """One sentence that names all of it."""
    names = absent[0] if len(absent) == 1 else f"{', '.join(absent[:-1])} and {absent[-1]}"
    return f"This machine lacks {names}: install what is named in brackets (Debian's package names) and try again."


def _other_python() -> str:
    has = ".".join(map(str, sys.version_info[:3]))
    return f"Python 3.11, 3.12 or 3.13 (python3; {sys.executable} is {has}, PYTHON=/path/to/python3.11 picks another)"


def _has_venv() -> bool:
    return all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))


def _has_headers() -> bool:
    return (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()
