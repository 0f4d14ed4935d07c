"""The loop of 2411.02481 through the service: prompts, sampled answers, a reward's pairs, DPO, a held-out judge.

    python -m examples.annotate --key sk-... --model llama --prompts prompts.jsonl \\
        --reward '{"type": "density_ratio", "strong": "...", "weak": "..."}' --judge helpful

The prompts file has `{"prompt": ...}` a line, text or messages. Reward and judge are stored reward models or settings
as JSON (or a file of them). The judge scores fresh samples of the model before and after, on the last fifth of the
prompts, which are not trained on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PATIENCE = 600.0
PAUSE_SECONDS = 0.5
HELD_OUT = 0.2
JUDGED_AT_ONCE = 256
Reward = str | dict[str, Any]


class Failed(Exception):
    """The service refused, or a run of it ended otherwise than well; the message is its sentence."""


@dataclass(frozen=True)
class Loop:
    """What came of it."""

    pairs: int
    dropped: dict[str, int]
    policy: str
    before: float  #: mean of the judge over fresh samples
    after: float


@dataclass(frozen=True)
class Plan:
    """What is asked."""

    model: str
    prompts: Path
    reward: Reward
    judge: Reward
    method: dict[str, Any]
    n: int = 8
    max_tokens: int = 128
    temperature: float = 1.0


def run(http: httpx.Client, plan: Plan, say: Callable[[str], None] = print) -> Loop:
    """Prompts → annotation → job → judge. Raises Failed."""
    lines = [line for line in plan.prompts.read_text().splitlines() if line.strip()]
    cut = max(1, int(len(lines) * (1 - HELD_OUT)))
    held_out = [json.loads(line)["prompt"] for line in lines[cut:] or lines]
    annotation = _annotated(http, plan, "".join(f"{line}\n" for line in lines[:cut]), say)
    counts = dict(annotation["counts"])
    pairs = counts.pop("pairs")
    say(f"{pairs} pairs, left out: {counts or 'none'}")
    policy = _tuned(http, plan, annotation["result_file"], say)
    before, after = (_judged(http, plan, model, held_out) for model in (plan.model, policy))
    say(f"the judge's mean over fresh samples: {before:.3f} before, {after:.3f} after")
    return Loop(pairs, counts, policy, before, after)


def _annotated(http: httpx.Client, plan: Plan, prompts: str, say: Callable[[str], None]) -> dict[str, Any]:
    file = _post(http, "/v1/files", files={"file": ("prompts.jsonl", prompts)}, data={"purpose": "fine-tune"})
    sampling = {"temperature": plan.temperature, "max_tokens": plan.max_tokens}
    body = {"prompts_file": file["id"], "model": plan.model, "reward_model": plan.reward, "n": plan.n}
    made = _post(http, "/v1/annotations", json=body | {"sampling": sampling})
    say(f"annotation {made['id']}: {made['prompts']} prompts, {plan.n} answers each")
    return _ended(http, f"/v1/annotations/{made['id']}")


def _tuned(http: httpx.Client, plan: Plan, file: str, say: Callable[[str], None]) -> str:
    body = {"model": plan.model, "training_file": file, "method": plan.method}
    job = _post(http, "/v1/fine_tuning/jobs", json=body)
    say(f"job {job['id']}")
    policy: str = _ended(http, f"/v1/fine_tuning/jobs/{job['id']}")["fine_tuned_model"]
    return policy


def _judged(http: httpx.Client, plan: Plan, model: str, prompts: Sequence[Any]) -> float:
    answers = [(prompt, text) for prompt in prompts for text in _samples(http, plan, model, prompt) if text.strip()]
    scores: list[float] = []
    for first in range(0, len(answers), JUDGED_AT_ONCE):
        inputs = [_input(*answer) for answer in answers[first : first + JUDGED_AT_ONCE]]
        scored = _post(http, "/v1/rewards", json={"model": plan.judge, "input": inputs})
        scores += [row["score"] for row in scored["data"]]
    return statistics.fmean(scores)


def _samples(http: httpx.Client, plan: Plan, model: str, prompt: Any) -> list[str]:
    body = {"model": model, "n": plan.n, "max_tokens": plan.max_tokens, "temperature": plan.temperature, "seed": 7}
    if isinstance(prompt, str):
        answer = _post(http, "/v1/completions", json=body | {"prompt": prompt})
        return [choice["text"] for choice in answer["choices"]]
    answer = _post(http, "/v1/chat/completions", json=body | {"messages": prompt})
    return [choice["message"]["content"] or "" for choice in answer["choices"]]


def _input(prompt: Any, answer: str) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"prompt": prompt, "response": answer}
    return {"messages": [*prompt, {"role": "assistant", "content": answer}]}


def _ended(http: httpx.Client, path: str) -> dict[str, Any]:
    while True:
        answer = http.get(path)
        found: dict[str, Any] = answer.raise_for_status().json()
        if found["status"] == "succeeded":
            return found
        if found["status"] in ("failed", "cancelled"):
            raise Failed(f"{path} has {found['status']}: {(found['error'] or {}).get('message')}")
        time.sleep(PAUSE_SECONDS)


def _post(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = http.post(path, **body)
    parsed: dict[str, Any] = answer.json()
    if answer.is_error:
        raise Failed(parsed["error"]["message"])
    return parsed


def _reward(text: str) -> Reward:
    if text.startswith("{"):
        parsed: dict[str, Any] = json.loads(text)
        return parsed
    return _reward(Path(text).read_text()) if Path(text).is_file() else text


def main() -> None:
    """Run the loop against a service that is up."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", required=True, type=Path)
    parser.add_argument("--reward", required=True, type=_reward)
    parser.add_argument("--judge", required=True, type=_reward)
    parser.add_argument("--loss", default="sigmoid", help="dpo's loss_type: sigmoid, simpo, ...")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    chosen = parser.parse_args()
    hyperparameters = {"loss_type": chosen.loss, "learning_rate": chosen.learning_rate}
    method = {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}}
    plan = Plan(chosen.model, chosen.prompts, chosen.reward, chosen.judge, method)
    headers = {"Authorization": f"Bearer {chosen.key}"}
    with httpx.Client(base_url=chosen.url, headers=headers, timeout=PATIENCE) as http:
        run(http, plan)


if __name__ == "__main__":
    main()
