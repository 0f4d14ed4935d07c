"""`python3 -m scripts.setup_env`: the training and the serving environment, from nothing, through the exact pins.

Needs the standard library alone. Goes on where it was interrupted and takes a moment when all is up to date.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from scripts import needs, pip_settings
from scripts.steps import Step, program, run_all

ROOT = Path(__file__).resolve().parent.parent
TRAINING, SERVING = ROOT / ".venv", ROOT / ".venv-serving"
PINS = ROOT / "constraints.txt"
EXTRAS = "service,reward,trainers,demo,dev"
#: DeepSpeed's only compiled part that our runs use on CPU; built here, else the first job waits for it
COMPILE = "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder as B; B().load(verbose=False)"


def main() -> int:
    """Set both environments up; returns the exit status."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    absent = needs.missing()
    if absent:
        print(needs.sentence(absent), file=sys.stderr)
        return 1
    gpu = has_gpu()
    return run_all([*training_steps(gpu), *serving_steps(gpu)])


def has_gpu() -> bool:
    """Whether an NVIDIA driver answers."""
    command = shutil.which("nvidia-smi")
    return command is not None and not subprocess.run([command, "-L"], capture_output=True).returncode


def training_steps(gpu: bool) -> list[Step]:
    """`.venv`: control plane, trainers, scoring, demo and the tools that check them."""
    stamps = TRAINING / ".setup"
    place = (str(ROOT), sys.version)
    packages = (*place, PINS.read_text(), (ROOT / "pyproject.toml").read_text(), str(gpu))
    steps = [
        Step("training environment: .venv", stamps / "venv", (*place, pin("uv")), make_training_venv),
        Step(
            "training packages (torch, DeepSpeed, TRL, ...)", stamps / "packages", packages, lambda: install_ours(gpu)
        ),
    ]
    if not gpu:
        sources = (*place, pin("torch"), pin("deepspeed"))
        steps.append(Step("compiling DeepSpeed's CPU communication", stamps / "compiled", sources, compile_deepspeed))
    return steps


def serving_steps(gpu: bool) -> list[Step]:
    """`.venv-serving`: vLLM, whose pins differ; its CPU build is a community one, hence pinned by hash."""
    pins = ROOT / ("constraints-serving.txt" if gpu else "constraints-serving-cpu.txt")
    overrides = [] if gpu else ["--override", str(ROOT / "overrides-serving-cpu.txt")]
    vllm = requirements("serving" if gpu else "serving-cpu")
    place = (str(ROOT), sys.version)
    texts = (pins.read_text(), *(Path(name).read_text() for name in overrides[1:]))
    stamps = SERVING / ".setup"
    return [
        Step("serving environment: .venv-serving", stamps / "venv", place, lambda: make_venv(SERVING, "--without-pip")),
        Step(
            f"serving packages ({vllm[0]}, ...)",
            stamps / "packages",
            (*place, *vllm, *texts),
            lambda: install(SERVING, [*vllm, "--constraints", str(pins), *overrides], gpu),
        ),
    ]


def requirements(extra: str) -> list[str]:
    """An extra of pyproject.toml."""
    listed: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    return listed


def pin(name: str) -> str:
    """`name==` and the version that the constraints give it."""
    return next(line for line in PINS.read_text().splitlines() if line.startswith(f"{name}=="))


def make_venv(folder: Path, *options: str) -> None:
    """A virtual environment of this interpreter; one of another interpreter or place is replaced."""
    program([sys.executable, "-m", "venv", "--clear", *options, folder])


def make_training_venv() -> None:
    """The environment and, through pip, the uv that installs everything else."""
    make_venv(TRAINING)
    program([TRAINING / "bin/python", "-m", "pip", "install", "--quiet", pin("uv")])


def install_ours(gpu: bool) -> None:
    """Our package, editable, with all that it needs."""
    ours = ["--editable", f"{ROOT}[{EXTRAS}]", "--constraints", str(PINS), "--build-constraints", str(PINS)]
    install(TRAINING, ours, gpu)


def install(venv: Path, arguments: list[str], gpu: bool) -> None:
    """Install with uv, looking where pip would look."""
    settings = pip_settings.read(TRAINING / "bin/python")
    places = pip_settings.uv_arguments(settings, gpu=gpu)
    uv: list[str | Path] = [
        TRAINING / "bin/uv",
        "pip",
        "install",
        "--python",
        venv / "bin/python",
        "--compile-bytecode",
    ]
    program([*uv, *places, *arguments], pip_settings.uv_environment(settings))


def compile_deepspeed() -> None:
    """Build it where workers look for it: aside first, so that nobody meets it half made or locked by a dead build."""
    aside, place = TRAINING / "torch_extensions.new", TRAINING / "torch_extensions"
    shutil.rmtree(aside, ignore_errors=True)
    tools = {"PATH": f"{TRAINING / 'bin'}{os.pathsep}{os.environ['PATH']}", "DS_ACCELERATOR": "cpu"}
    program([TRAINING / "bin/python", "-c", COMPILE], os.environ | tools | {"TORCH_EXTENSIONS_DIR": str(aside)})
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)


if __name__ == "__main__":
    sys.exit(main())
