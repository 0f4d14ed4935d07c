"""Every file in examples/ imports, on a machine without a display, a GPU or a network."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "examples").rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_it_imports_and_says_what_it_is(module):
    assert importlib.import_module(module).__doc__
