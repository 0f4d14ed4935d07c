"""Real answers through a real tokenizer: nothing is lost, spans weigh what they cover."""

from __future__ import annotations

import gzip
import json
import re

import pytest
from transformers import AutoTokenizer

from trainers.data import records
from trainers.data.encoder import Encoder
from trainers.data.tokens import tokenise

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def encoder(realdata) -> Encoder:
    tokenizer = AutoTokenizer.from_pretrained(realdata / "models" / "stories260k-hd32")
    return Encoder(tokenizer, len(tokenizer))


def test_calculations_in_gsm8k_are_masked_out_and_all_else_is_read_back(realdata, encoder, write_rows, tmp_path):
    rows = []
    with (realdata / "gsm8k" / "train.jsonl").open() as source:
        for line, _ in zip(source, range(500), strict=False):
            row = json.loads(line)
            spans = [{"start": m.start(), "end": m.end(), "weight": 0} for m in re.finditer("<<.*?>>", row["answer"])]
            rows.append(
                {"prompt": row["question"] + "\n", "completion": row["answer"], "completion_token_weights": spans}
            )
    found = records.read(write_rows(tmp_path / "rows.jsonl", rows), "supervised")
    kept = tokenise(found, encoder, limit=100_000, data="supervised")
    assert (len(kept.rows), kept.dropped.total(), kept.misread, kept.endless) == (500, 0, [], 0)
    clean = 0
    for example, row in zip(kept.rows, rows, strict=True):
        [answer] = example.answers
        assert encoder.text(answer.ids) == row["completion"] + "</s>"
        if answer.weights is None or set(answer.weights.tolist()) <= {0, 1}:
            clean += 1
            bare = re.sub("<<.*?>>", "", row["completion"])
            assert encoder.text(answer.ids[answer.scored]) == bare + "</s>"
    assert clean > 400  # the others have a token over a border


def test_rows_of_hh_rlhf_with_an_empty_answer_are_left_out_and_counted(realdata, encoder, write_rows, tmp_path):
    rows = []
    with gzip.open(realdata / "hh-rlhf-harmless" / "part1.jsonl.gz", "rt") as source:
        for line in source:
            row = json.loads(line)
            mark = "\n\nAssistant:"
            prompt = row["chosen"].rpartition(mark)[0] + mark
            if row["rejected"].startswith(prompt):
                rows.append({"prompt": prompt} | {k: row[k].removeprefix(prompt) for k in ("chosen", "rejected")})
    empty = sum(not row["chosen"].strip() or not row["rejected"].strip() for row in rows)
    kept = tokenise(records.read(write_rows(tmp_path / "rows.jsonl", rows), "preference"), encoder, limit=100_000)
    assert empty > 0
    assert kept.dropped["empty answer"] == empty
    assert len(kept.rows) + kept.dropped.total() == len(rows)
    assert kept.misread == []
