"""Regular expressions of others, matched where they can be stopped: a pattern may take forever."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence

from reward.errors import Invalid

SECONDS = 5.0
PROGRAM = """
import json, re, sys
asked = json.load(sys.stdin)
pattern = re.compile(asked["pattern"], re.IGNORECASE if asked["ignore_case"] else 0)
match = pattern.fullmatch if asked["whole"] else pattern.search
json.dump([match(text) is not None for text in asked["texts"]], sys.stdout)
"""


async def matches(pattern: str, texts: Sequence[str], *, whole: bool, ignore_case: bool) -> list[bool]:
    """Whether each text matches. Raises Invalid for a pattern that does not end within five seconds."""
    asked = {"pattern": pattern, "texts": list(texts), "whole": whole, "ignore_case": ignore_case}
    pipe = asyncio.subprocess.PIPE
    argv = (sys.executable, "-I", "-S", "-c", PROGRAM)
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, env={})
    try:
        told, _ = await asyncio.wait_for(process.communicate(json.dumps(asked).encode()), SECONDS)
    except TimeoutError as error:
        said = f"the pattern did not come to an end within {SECONDS:.0f} seconds on these answers"
        raise Invalid(said, param="model.pattern") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found: list[bool] = json.loads(told)
    return found
