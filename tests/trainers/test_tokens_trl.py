"""The tokens that SFT trains are those of TRL 1.16's own preprocessing, wherever both are defined."""

from __future__ import annotations

from importlib.resources import files

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from tests.trainers.families import FAMILIES, byte_level
from trainers.data import supervised
from trainers.data.encoder import Encoder
from trainers.data.trees import plant

TURNS = ["How are you?", "Fine, Zoë.", "Good\n日", "And  you?", "Well", "Bye."]


def chat(count: int) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(TURNS[:count])]


@pytest.fixture
def trl_rows(tiny_llama, tmp_path):
    """TRL's (input_ids, labels) of each row; labels are -100 where nothing is trained."""

    def rows(tokenizer, data: list[dict], **settings) -> list[tuple[list[int], list[int]]]:
        config = SFTConfig(
            output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, max_length=None, **settings
        )
        model = tiny_llama(vocab_size=len(tokenizer))
        trainer = SFTTrainer(model, config, train_dataset=Dataset.from_list(data), processing_class=tokenizer)
        return [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]

    return rows


def ours(row: dict, tokenizer, stops: frozenset[int] = frozenset()) -> tuple[list[int], list[int]]:
    example = plant(supervised.parse(1, row), Encoder(tokenizer, len(tokenizer), stops)).examples[0]
    [answer] = example.answers
    scored = set(answer.scored.tolist())
    labels = [one if place in scored else -100 for place, one in enumerate(answer.ids.tolist())]
    return example.prompt.tolist() + answer.ids.tolist(), [-100] * len(example.prompt) + labels


def cut(row: tuple[list[int], list[int]], length: int) -> tuple[list[int], list[int]]:
    return row[0][:length], row[1][:length]


def with_pad(tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@pytest.mark.parametrize("name", ["llama3", "mistral", "chatml", "gemma"])
def test_prompts_with_completions_of_messages(trl_rows, name):
    family = FAMILIES[name]
    tokenizer = with_pad(family.tokenizer())
    rows = [{"prompt": chat(count)[:-1], "completion": chat(count)[-1:]} for count in (2, 4)]
    theirs = trl_rows(tokenizer, rows)
    for row, (ids, labels) in zip(rows, theirs, strict=True):
        mine = ours(row, tokenizer, family.stop_ids(tokenizer))
        # TRL also trains the line break that a template writes behind the end
        surplus = len(family.rest)
        assert mine == cut((ids, labels), len(ids) - surplus)
        assert tokenizer.decode(ids[len(ids) - surplus :]) == family.rest


def test_prompts_with_completions_of_text(trl_rows, byte_tokenizer):
    for tokenizer in (with_pad(byte_tokenizer()), with_pad(FAMILIES["mistral"].tokenizer(byte_level))):
        rows = [{"prompt": "Once upon", "completion": " a time"}, {"prompt": "é", "completion": "日\n"}]
        assert [ours(row, tokenizer) for row in rows] == trl_rows(tokenizer, rows)


def test_texts_but_for_the_first_token_which_nothing_predicts(trl_rows, byte_tokenizer):
    tokenizer = with_pad(byte_tokenizer())
    rows = [{"text": "Once upon a time"}, {"text": "é"}]
    theirs = [(ids, [-100, *labels[1:]]) for ids, labels in trl_rows(tokenizer, rows)]
    assert [ours(row, tokenizer) for row in rows] == theirs


@pytest.mark.parametrize(
    ("published", "special", "end", "turns"),
    [
        ("llama3", FAMILIES["llama3"].special, "<|eot_id|>", 6),
        ("qwen2_5", (*FAMILIES["chatml"].special, "<tool_call>", "</tool_call>"), "<|im_end|>", 6),
        # TRL gives every turn the thoughts that the family's own template gives to the last alone
        ("qwen3", (*FAMILIES["chatml"].special, "<think>", "</think>"), "<|im_end|>", 2),
        ("gemma", FAMILIES["gemma"].special, "<end_of_turn>", 6),
        ("phi3", FAMILIES["phi3"].special, "<|end|>", 6),
    ],
)
def test_turns_of_conversations_under_published_templates(trl_rows, published, special, end, turns):
    """The families' own templates for us, for TRL its copies with marks around what the model writes.

    TRL also trains line breaks around a turn, and what Phi-3's template writes behind the last end.
    """
    folder = files("trl") / "chat_templates"
    plain, marked = ((folder / f"{published}{kind}.jinja").read_text() for kind in ("", "_training"))
    names = {"bos_token": special[0]} if published in ("llama3", "gemma") else {}
    eos = "<|endoftext|>" if published == "phi3" else end
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(*special), eos_token=eos, pad_token=eos, chat_template=plain, **names
    )
    row = {"messages": chat(turns)}
    ids, labels = ours(row, tokenizer, frozenset(tokenizer.convert_tokens_to_ids([end])))
    tokenizer.chat_template = marked
    [theirs] = trl_rows(tokenizer, [row], assistant_only_loss=True)
    assert ids == theirs[0][: len(ids)]
    assert tokenizer.decode(theirs[0][len(ids) :]).removesuffix("<|endoftext|>") in ("", "\n")
    breaks = {place for place, one in enumerate(ids) if tokenizer.decode(one) == "\n"}
    compared = [k for k in range(len(ids)) if k not in breaks]
    assert [labels[k] for k in compared] == [theirs[1][k] for k in compared]
    stop = tokenizer.convert_tokens_to_ids(end)
    assert all(labels[k] == -100 for k in breaks if ids[k - 1] == stop)
    assert [one for one in labels if one != -100].count(stop) == turns / 2
