"""`make constraints`: the newest set of versions that fits pyproject.toml, written down exactly."""

from __future__ import annotations

import re
import subprocess
import sys

from scripts import pip_settings
from scripts.pins import FILES, HASHES, ROOT, PinFile
from scripts.setup_env import TRAINING

HEADER = "# Exact versions of the whole environment. Made by `make constraints`; edit pyproject.toml, not this.\n"


def main() -> int:
    """Resolve each file anew; returns the exit status."""
    for file in FILES:
        file.path.write_text(HEADER + "".join(f"{line}\n" for line in resolved(file)))
        print(f"{file.name}: {len(file.pins())} packages")
    return 0


def resolved(file: PinFile) -> list[str]:
    """Sorted `name==version` lines; hashes where `HASHES` has them. Raises CalledProcessError if nothing fits."""
    settings = pip_settings.read(TRAINING / "bin/python")
    uv = [
        str(TRAINING / "bin/uv"),
        "pip",
        "compile",
        "--quiet",
        "--no-header",
        "--no-annotate",
        "--python-version",
        "3.11",
    ]
    overrides = ["--override", str(ROOT / file.overrides)] if file.overrides else []
    # A local wheel is of no use to the others who read the pins, so where it lies does not matter unless it is theirs.
    places = pip_settings.uv_arguments(settings, gpu=True) if "serving" not in file.extras else []
    output = subprocess.run(
        [*uv, *places, *overrides, "-"],
        input="\n".join(file.requirements()),
        env=pip_settings.uv_environment(settings),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    # `+cpu` names one of several builds of a version; which one is installed is not the pins' matter.
    return [with_hashes(re.sub(r"\+[a-z0-9.]+", "", line)) for line in output.splitlines() if "==" in line]


def with_hashes(pin: str) -> str:
    """The pin, bound to its known files where it is one of `HASHES`."""
    return " ".join([pin, *(f"--hash={digest}" for digest in HASHES.get(pin, ()))])


if __name__ == "__main__":
    sys.exit(main())
