"""Which GPUs a job may be given."""

import pytest

from service import machine

SMI = """#!/bin/sh
printf 'GPU 0: NVIDIA H200 (UUID: GPU-a)\\nGPU 1: NVIDIA H200 (UUID: GPU-b)\\nGPU 2: NVIDIA H200 (UUID: GPU-c)\\n'
"""


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ("0", "1", "2")), ("2,1", ("2", "1")), ("", ()), ("-1", ()), ("0,7,1", ("0",)), ("GPU-b", ("GPU-b",))],
)
def test_the_gpus_are_those_that_cuda_would_show(tmp_path, monkeypatch, visible, expected):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(SMI)
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.visible_gpus() == expected


def test_a_machine_without_the_driver_has_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.visible_gpus() == ()
