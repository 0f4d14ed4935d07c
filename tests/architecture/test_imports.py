"""The folders are the packages, and the control plane stays free of machine learning libraries."""

import json
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest

HEAVY = ("torch", "transformers", "trl", "deepspeed", "peft", "accelerate", "vllm")


@pytest.mark.parametrize("module", ["service.app", "service.cli", "trainers.spec", "reward.app", "reward.client"])
def test_importing_it_does_not_import_machine_learning(module):
    code = f"import sys, {module}; sys.exit(', '.join(m for m in {HEAVY!r} if m in sys.modules) or 0)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert found.returncode == 0, found.stderr


def test_our_package_names_are_imported_from_our_distribution():
    origin = json.loads(distribution("prefserve").read_text("direct_url.json"))["url"]
    code = "import service, trainers, reward; print(service.__file__, trainers.__file__, reward.__file__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True).stdout
    root = Path(url2pathname(urlparse(origin).path))
    assert [Path(place).parent.parent for place in found.split()] == [root] * 3
