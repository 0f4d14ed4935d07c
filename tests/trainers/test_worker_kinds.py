"""Files of each kind through the whole worker: what was read is what is trained and told."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.deepspeed


def chat(*contents: str, **last: object) -> dict:
    roles = [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(contents)]
    return {"messages": [*roles[:-1], roles[-1] | last]}


def test_conversations_completions_and_texts_are_imitated(finish, assign, write_rows, tmp_path):
    spans = [{"start": 0, "end": 2, "weight": 0}]
    rows = [
        chat("a", "bb", "c", "dd"),
        chat("e", "ff", token_weights=spans, weight=0.5),
        {"prompt": "g", "completion": " hh", "weight": 2},
        {"text": "iii"},
        {"prompt": "g", "completion": " "},
    ]
    file = write_rows(tmp_path / "rows.jsonl", rows * 2)
    attempt = finish(assign("supervised", training_path=file, n_epochs=4, batch_size=4, learning_rate=1e-2))
    opening = next(event for event in attempt.events() if event["message"].startswith("Training on"))
    left_out = "2 left out: empty answer, 4 end without a token that stops a generation"
    assert opening["message"].startswith(f"Training on 8 conversations ({left_out})")
    assert opening["data"]["left_out"] == {"empty answer": 2}
    assert attempt.losses()[-1] < attempt.losses()[0]


def test_labelled_answers_are_told_apart(finish, assign, write_rows, tmp_path):
    rows = [{"prompt": f"{k}:", "completion": "yes" if k % 2 else "no", "label": bool(k % 2)} for k in range(8)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    attempt = finish(assign("kto", training_path=file, n_epochs=4, learning_rate=1e-2))
    assert any(event["message"].startswith("Training on 8 answers at") for event in attempt.events())
    assert attempt.losses()[0] == pytest.approx(0.5, abs=1e-5)
    assert attempt.losses()[-1] < 0.49


@pytest.mark.parametrize("method", ["asft", "sparsepo"])
def test_weighed_tokens_and_examples_give_the_same_losses_for_any_share(
    finish, assign, id_rows, write_rows, tmp_path, method
):
    rows = []
    for place, row in enumerate(id_rows(14)):
        weights = [0.5 + (place + at) % 3 for at in range(len(row["chosen"]))]
        pair = row | {"chosen_token_weights": weights, "weight": 1 + place % 2}
        answer = {"prompt": row["prompt"], "completion": row["chosen"], "completion_token_weights": weights}
        rows.append(pair if method == "sparsepo" else answer | {"weight": 1 + place % 2})
    file = write_rows(tmp_path / "rows.jsonl", rows)
    asked = {"training_path": file, "n_epochs": 2, "learning_rate": 1e-2}
    whole = finish(assign(method, micro_batch_size=8, **asked))
    spread = finish(assign(method, micro_batch_size=1, **asked), ranks=2)
    assert spread.losses() == pytest.approx(whole.losses(), rel=2e-5)
    assert len(set(whole.losses())) == len(whole.losses()) == 4
