"""What this machine has, found without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess


def visible_gpus() -> tuple[str, ...]:
    """The NVIDIA GPUs that a process started now would see, as CUDA_VISIBLE_DEVICES names them."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return ()
    listing = subprocess.run([smi, "-L"], capture_output=True, text=True, timeout=30, check=False)
    found = [str(place) for place, line in enumerate(listing.stdout.splitlines()) if line.startswith("GPU ")]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(found) if chosen is None else _until_the_first_that_is_none(chosen, found)


def _until_the_first_that_is_none(chosen: str, found: list[str]) -> tuple[str, ...]:
    """CUDA's own rule: an index that does not exist (-1, say) hides all that come after it."""
    names = []
    for name in (word.strip() for word in chosen.split(",")):
        if not name or (name.lstrip("-").isdecimal() and name not in found):
            break
        names.append(name)
    return tuple(names)
