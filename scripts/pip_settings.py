"""pip's own settings, in the words of uv, which does not read them."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

#: pip's name of a setting that lists places → uv's option, given once per place
OPTIONS = {"find-links": "--find-links", "index-url": "--default-index", "extra-index-url": "--index"}


def read(python: Path) -> dict[str, str]:
    """Settings as pip would apply them: those of the environment win over those of files."""
    listing = subprocess.run(
        [str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    lines = [line.partition("=") for line in listing.splitlines() if "=" in line]
    lines.sort(key=lambda parts: parts[0].startswith(":env:"))
    return {name.rpartition(".")[2]: str(ast.literal_eval(value)) for name, _, value in lines}


def uv_arguments(settings: dict[str, str], *, gpu: bool) -> list[str]:
    """Where uv shall look for packages.

    Without a GPU and with no place of the user's own, PyTorch's CPU builds: the ordinary ones are several GB larger.
    """
    arguments = [
        word for name, option in OPTIONS.items() for place in settings.get(name, "").split() for word in (option, place)
    ]
    if "--index" in arguments:
        arguments += ["--index-strategy", "unsafe-best-match"]  # as pip does: the newest, wherever it lies
    return arguments if arguments or gpu else ["--torch-backend", "cpu"]


def uv_environment(settings: dict[str, str]) -> dict[str, str]:
    """The process's environment, with pip's certificate bundle and time-out where uv has none of its own."""
    names = {"cert": "SSL_CERT_FILE", "timeout": "UV_HTTP_TIMEOUT", "default-timeout": "UV_HTTP_TIMEOUT"}
    return {names[name]: value for name, value in settings.items() if name in names} | dict(os.environ)
