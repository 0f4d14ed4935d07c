"""What a policy has become, asked and scored through the service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp, sqrt
from statistics import mean, stdev
from typing import Any

from bench import sentiment
from bench.real_input import Row
from bench.sentiment import Lexicon
from bench.served import Served

#: samples of each policy, how many of them are scored, and their longest: scoring is what takes the time on a CPU
SAMPLES, SCORED, TOKENS = 128, 64, 100


def estimate(values: Sequence[float]) -> dict[str, float]:
    """The mean and its standard error, of at least two independent values."""
    return {"mean": mean(values), "se": stdev(values) / sqrt(len(values))}


def stories(served: Served, policy: str, lexicons: Mapping[str, Lexicon], seed: int) -> Row:
    """Rewards of fresh samples and KL(π ‖ π_ref) = E_π[log π/π_ref] over them, per sample, in nats."""
    samples = served.stories(policy, SAMPLES, TOKENS, seed)
    texts = [sample["text"] for sample in samples]
    scores = served.scores(policy, [{"prompt": [1], "response": sample["token_ids"]} for sample in samples[:SCORED]])
    found: Row = {name: estimate([sentiment.worth(t, words) for t in texts]) for name, words in lexicons.items()}
    return found | {
        "kl": estimate([score["score"] for score in scores]),
        "base_logp_per_token": sum(s["weak_logprob"] for s in scores) / sum(s["num_scored_tokens"] for s in scores),
        "variety": estimate([sentiment.variety(text) for text in texts]),
        "tokens": mean(len(sample["token_ids"]) for sample in samples),
        "samples": len(samples),
        "scored": len(scores),
        "different": len(set(texts)),
        "example": texts[0],
    }


def pairs(served: Served, policy: str, rows: Sequence[Row]) -> Row:
    """How the policy's log-ratio over its base ranks pairs, and how the log-probs of either model do."""
    inputs = [{"prompt": row["prompt"], "response": row[side]} for row in rows for side in ("chosen", "rejected")]
    scores = served.scores(policy, inputs)
    return {"pairs": len(rows)} | {
        name: _ranked([score[field] for score in scores])
        for name, field in {"log_ratio": "score", "policy": "strong_logprob", "base": "weak_logprob"}.items()
    }


def _ranked(values: Sequence[float]) -> Row:
    margins = [chosen - rejected for chosen, rejected in zip(values[::2], values[1::2], strict=True)]
    return {"margin": estimate(margins), "accuracy": estimate([float(margin > 0) for margin in margins])}


def answers(served: Served, policy: str, rows: Sequence[Row]) -> Row:
    """Mean over the tokens of the file's answers, as `supervised` logs them: −log p, p, and those of the base."""
    scores = served.scores(policy, [{"prompt": row["prompt"], "response": row["completion"]} for row in rows])
    return {
        "answers": len(rows),
        "tokens": sum(score["num_scored_tokens"] for score in scores),
        "ce": -_over_tokens(scores, "strong_logprobs", float),
        "token_probability": _over_tokens(scores, "strong_logprobs", exp),
        "base_ce": -_over_tokens(scores, "weak_logprobs", float),
        "base_token_probability": _over_tokens(scores, "weak_logprobs", exp),
    }


def drift(served: Served, policy: str, model: str, samples: Sequence[Row]) -> float:
    """±E[log π/π_ref] per token over samples of the policy, KL(π ‖ π_ref), or of the base, KL(π_ref ‖ π)."""
    inputs = [{"prompt": sample["prompt_token_ids"], "response": sample["token_ids"]} for sample in samples]
    scores = served.scores(policy, inputs)
    per_token: float = sum(score["score"] for score in scores) / sum(score["num_scored_tokens"] for score in scores)
    return per_token if model == policy else -per_token


def _over_tokens(scores: Sequence[Mapping[str, Any]], field: str, function: Callable[[float], float]) -> float:
    return mean(function(logp) for score in scores for logp in score[field])
