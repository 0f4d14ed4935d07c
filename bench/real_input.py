"""Real data as lines of training files: pairs of a model's own samples, human pairs, answers to sums."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
#: what an answer of hh-rlhf begins with; the last one in a transcript is the one that was compared
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def folder() -> Path:
    """Where real data lies: PREFSERVE_REALDATA, else beside the checkout. Exits where there is none."""
    found = Path(os.environ.get("PREFSERVE_REALDATA", Path(__file__).parents[2] / "shared" / "realdata"))
    if not found.is_dir():
        raise SystemExit(f"no real data at {found}; PREFSERVE_REALDATA names another place")
    return found


def best_against_worst(samples: Sequence[Row], reward: Callable[[str], float], count: int) -> list[Row]:
    """So many pairs of samples of the empty story: the best with the worst, and so on inwards."""
    ranked = sorted(samples, key=lambda sample: reward(sample["text"]))
    ends = zip(ranked[:count], reversed(ranked), strict=False)
    return [{"prompt": [1], "chosen": better["token_ids"], "rejected": worse["token_ids"]} for worse, better in ends]


def harmless(data: Path, most: int) -> list[Row]:
    """hh-rlhf's pairs, cut to their last human turn; those with an empty answer or over `most` characters are not."""
    with gzip.open(data / "hh-rlhf-harmless" / "part1.jsonl.gz", "rt") as lines:
        rows = [_last_turn(json.loads(line)) for line in lines]
    return [
        row
        for row in rows
        if row["chosen"].strip() and row["rejected"].strip() and max(map(len, row.values())) <= most // 2
    ]


def _last_turn(transcripts: Row) -> Row:
    begin = transcripts["chosen"].rindex(ASSISTANT) + len(ASSISTANT)
    prompt = transcripts["chosen"][:begin]
    rejected = transcripts["rejected"][transcripts["rejected"].rindex(ASSISTANT) + len(ASSISTANT) :]
    return {
        "prompt": prompt[prompt.rindex(HUMAN) :],
        "chosen": transcripts["chosen"][begin:],
        "rejected": rejected,
    }


def sums(data: Path, most: int, seed: int = 0) -> list[Row]:
    """GSM8K's and SVAMP's answers in one order drawn at random, as many of each, up to `most` characters a line."""
    svamp = [
        {"prompt": f"Question: {row['Body']} {row['Question']}\nAnswer:", "completion": f" {row['Answer']:g}"}
        for row in json.loads((data / "svamp" / "SVAMP.json").read_text())
    ]
    gsm8k = [
        {"prompt": f"Question: {row['question']}\nAnswer:", "completion": f" {row['answer']}"}
        for row in map(json.loads, (data / "gsm8k" / "train.jsonl").read_text().splitlines())
    ]
    short = [row for row in gsm8k if len(row["prompt"]) + len(row["completion"]) <= most]
    rows = svamp + short[: len(svamp)]
    random.Random(seed).shuffle(rows)  # noqa: S311 - an order, not a secret
    return rows
