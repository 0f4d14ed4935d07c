"""Part of `make check`: pyproject.toml, the pins and what is installed say the same."""

from __future__ import annotations

import sys
from importlib.metadata import distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scripts.pins import FILES, HASHES, PinFile
from scripts.setup_env import ROOT, has_gpu

#: what venv and the set-up itself bring, and what a GPU build of PyTorch brings and pins by itself
UNPINNED = ("pip", "setuptools", "prefserve")
OF_THE_GPU = ("nvidia-", "cuda-", "triton")


def main() -> int:
    """Print each disagreement; returns the exit status."""
    here = [file for file in FILES if ("serving" if has_gpu() else "serving-cpu") in file.extras or file.ours]
    problems = [problem for file in FILES for problem in unpinned(file)]
    problems += [problem for file in here for problem in drifted(file)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print("`make constraints` resolves anew, `make setup` installs what is pinned.", file=sys.stderr)
    return bool(problems)


def unpinned(file: PinFile) -> list[str]:
    """Requirements that the pins do not answer."""
    pins = file.pins()
    problems = []
    for requirement in map(Requirement, file.requirements()):
        version = pins.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{file.name}: {requirement} is asked for, {version or 'nothing'} is pinned")
        if f"{requirement}" in HASHES and f"{requirement} --hash=" not in file.path.read_text():
            problems.append(f"{file.name}: {requirement} is not pinned by hash")
    return problems


def drifted(file: PinFile) -> list[str]:
    """Installed versions that are not the pinned ones."""
    pins, installed = file.pins(), installed_in(file.venv)
    wrong = [
        f"{file.venv}: {name} {version} is installed, {pins[name]} is pinned"
        for name, version in installed.items()
        if name in pins and Version(pins[name]) != Version(version.partition("+")[0])
    ]
    surplus = [
        f"{file.venv}: {name} {version} is installed, {file.name} does not know it"
        for name, version in installed.items()
        if name not in pins and name not in UNPINNED and not name.startswith(OF_THE_GPU)
    ]
    absent = [f"{file.venv}: {name} is asked for, but not installed" for name in asked(file) if name not in installed]
    return wrong + surplus + absent


def asked(file: PinFile) -> list[str]:
    """Names of the requirements that apply to this machine."""
    wanted = map(Requirement, file.requirements())
    build_only = {"hatchling", "editables"}  # needed while our package is built, in an environment of that moment
    names = [canonicalize_name(one.name) for one in wanted if not one.marker or one.marker.evaluate()]
    return [name for name in names if name not in build_only]


def installed_in(venv: str) -> dict[str, str]:
    """Name → version of what lies in an environment's site-packages."""
    places = [str(place) for place in (ROOT / venv).glob("lib/python3*/site-packages")]
    return {canonicalize_name(found.name): found.version for found in distributions(path=places)}


if __name__ == "__main__":
    sys.exit(main())
