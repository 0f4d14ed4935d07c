"""The folders are the packages, and the control plane stays free of machine learning libraries."""

import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

HEAVY = ("torch", "transformers", "trl", "deepspeed", "peft", "accelerate", "vllm")


@pytest.mark.parametrize("module", ["service.app", "service.cli", "trainers.spec", "reward.app", "reward.client"])
def test_importing_it_does_not_import_machine_learning(module):
    code = f"import sys, {module}; sys.exit(', '.join(m for m in {HEAVY!r} if m in sys.modules) or 0)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert found.returncode == 0, found.stderr


def test_our_package_names_belong_to_our_distribution():
    owners = packages_distributions()
    for package in ("service", "trainers", "reward"):
        assert set(owners.get(package, ["prefserve"])) == {"prefserve"}
