"""A real pretrained model, told by token ids which of its stories to prefer."""

from __future__ import annotations

import json
import math

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.realdata, pytest.mark.deepspeed]
PAIRS = 96


@pytest.fixture(scope="module")
def afinn(realdata):
    rows = (line.split("\t") for path in sorted((realdata / "afinn").glob("*.txt")) for line in path.open())
    words = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].strip().lstrip("-").isdigit()}
    return lambda text: sum(words.get(word.strip('.,!?"'), 0) for word in text.lower().split())


def stories(model, count: int, seed: int) -> list[list[int]]:
    torch.manual_seed(seed)
    out = model.generate(torch.ones(count, 1, dtype=torch.int64), do_sample=True, top_k=0, max_new_tokens=60)
    return out[:, 1:].tolist()


def test_dpo_on_its_own_stories_makes_the_real_model_happier(finish, assign, write_rows, tmp_path, realdata, afinn):
    model = realdata / "models" / "stories260k-hd32"
    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModelForCausalLM.from_pretrained(model)

    def mood(ids: list[int]) -> int:
        return afinn(tokenizer.decode(ids))

    ranked = sorted(stories(base, 2 * PAIRS, seed=1), key=mood)
    rows = [{"prompt": [1], "chosen": ranked[-1 - k], "rejected": ranked[k]} for k in range(PAIRS)]
    file = write_rows(tmp_path / "pairs.jsonl", rows)
    how = {"batch_size": 16, "micro_batch_size": 8, "learning_rate": 3e-3, "n_epochs": 4, "beta": 0.1}
    attempt = finish(
        assign("dpo", model_path=model, training_path=file, peft={"r": 8, "lora_alpha": 16}, **how), ranks=2
    )
    assert attempt.losses()[0] == pytest.approx(math.log(2), abs=1e-5)
    assert attempt.manifest().metrics["rewards/accuracies"] > 0.75
    before = [mood(ids) for ids in stories(base, 96, seed=2)]
    tuned = PeftModel.from_pretrained(base, attempt.out / "adapter")
    after = [mood(ids) for ids in stories(tuned, 96, seed=2)]
    print(f"mean AFINN sum of 96 fresh samples: {sum(before) / 96:.2f} before, {sum(after) / 96:.2f} after")
    assert sum(after) / 96 > sum(before) / 96 + 1
    shown = json.loads((attempt.out / "token_masks.json").read_text())["examples"][0]
    assert shown["prompt_ids"] == [1]
    assert "".join(shown["chosen"]["tokens"]).strip() == tokenizer.decode(shown["chosen"]["ids"]).strip()
