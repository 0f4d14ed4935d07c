#!/usr/bin/env python3
"""A second program of the worker protocol, torch-free: the real launcher starts it in the trainers' place.

What it does is chosen by the job's metadata {"act": ...}: succeed, fail, die, count (a step each tenth of a second,
going on from the newest checkpoint, up to metadata's `steps`; the first attempt waits after `hold`), or work until it is told to stop.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

out = Path(sys.argv[-1])
assignment = json.loads((out / "spec.json").read_text())
act = (assignment["spec"]["metadata"] or {}).get("act", "succeed")


def say(seq: int, message: str, kind: str = "message", **data: object) -> None:
    event = {"seq": seq, "created_at": int(time.time()), "level": "info", "type": kind, "message": message}
    with (out / "events.jsonl").open("a") as log:
        log.write(json.dumps(event | {"data": data}) + "\n")


def save(step: int) -> dict[str, object]:
    """A checkpoint with an adapter that could be served."""
    folder = out / "checkpoints" / f"step-{step}"
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"r": 16}))
    metrics = {"train_loss": 0.5} | ({"valid_loss": 0.6} if assignment["validation_path"] else {})
    return {"step_number": step, "path": f"checkpoints/step-{step}", "metrics": metrics}


def count() -> int:
    """Steps up to the wanted number; the first of them is the one after the newest checkpoint."""
    done = max((int(path.name.removeprefix("step-")) for path in out.glob("checkpoints/step-*")), default=0)
    first, steps = done + 1, int(assignment["spec"]["metadata"]["steps"])
    hold = int(assignment["spec"]["metadata"].get("hold", steps)) if assignment["attempt"] == 1 else steps
    for seq, step in enumerate(range(first, steps + 1), 1):
        time.sleep(0.1 if step <= hold else 120)
        say(2 * seq - 1, f"Step {step}/{steps}", "metrics", step=step, total_steps=steps, train_loss=1 / step)
        say(2 * seq, f"Saved step {step}", checkpoint=save(step))
    return steps


def stop(*_: object) -> None:
    (out / "outcome.json").write_text(json.dumps({"state": "stopped", "step": 3}))
    sys.exit(143)


signal.signal(signal.SIGTERM, stop)
(out / "token").write_text(os.environ["PREFSERVE_ATTEMPT_TOKEN"])
with (out / "runs").open("a") as runs:
    runs.write(f"{os.getpid()}\n")
steps = 2
if act == "count":
    steps = count()
else:
    say(1, "Step 1/2: training loss=0.69", "metrics", step=1, total_steps=2, train_loss=0.69, eta_seconds=60)
    say(2, "Checkpoint", checkpoint=save(2))
if act == "work":
    time.sleep(120)
elif act == "die":
    print("a last line before the end", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
elif act == "fail":
    where = f" in {out}" if assignment["spec"]["suffix"] == "path" else ""
    error = {"message": f"the loss became NaN at step 3{where}", "code": "nan_loss", "param": None}
    (out / "outcome.json").write_text(json.dumps({"state": "failed", "error": error}))
    sys.exit(1)
else:
    spec = assignment["spec"]
    kind = spec["serving"] or "adapter"
    files = {}
    if kind == "merged":
        shutil.copytree(assignment["model_path"], out / "merged", dirs_exist_ok=True)
        (out / "merged" / "model.safetensors").write_bytes(assignment["job"].encode())
        for path in (out / "merged").iterdir():
            content = path.read_bytes()
            files[f"merged/{path.name}"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {
        "job": assignment["job"],
        "attempt": assignment["attempt"],
        "created_at": int(time.time()),
        "kind": kind,
        "base_model": assignment["base_model"],
        "base_digest": assignment["model_digest"],
        "merged_model": assignment["merged_model"] if kind == "adapter" else None,
        "rank": spec["peft"]["r"] if kind == "adapter" else None,
        "target_modules": ["q_proj"],
        "trained_tokens": 1234,
        "steps": steps,
        "metrics": {"train_loss": 0.5, "initial_loss": 0.69},
        "checkpoints": [],
        "files": files,
    }
    (out / "manifest.json").write_text(json.dumps(manifest))
