"""Texts, labelled answers, and tokenizers that change what they are given."""

from __future__ import annotations

import pytest
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from tests.trainers.families import FAMILIES, byte_level, metaspace
from trainers.data import binary, supervised
from trainers.data.encoder import Encoder
from trainers.data.replies import LeftOut
from trainers.data.tokens import tokenise
from trainers.data.trees import plant
from trainers.errors import Unusable


def encoder(tokenizer) -> Encoder:
    return Encoder(tokenizer, len(tokenizer))


def beginning(make=byte_level) -> PreTrainedTokenizerFast:
    """Puts <s> before every text."""
    from tokenizers.processors import TemplateProcessing

    inner = type(make("<s>", "</s>")).from_str(make("<s>", "</s>").to_str())
    inner.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def test_a_text_is_trained_from_its_second_token_to_the_end_token(byte_tokenizer):
    told = encoder(byte_tokenizer())
    example = plant(supervised.parse(1, {"text": "abc"}), told).examples[0]
    assert (told.text(example.prompt), told.text(example.answers[0].ids)) == ("a", "bc<end>")
    assert example.answers[0].weights is None


@pytest.mark.parametrize("make", [byte_level, metaspace])
@pytest.mark.parametrize("text", ["Once upon", "<s>Once upon", "<s>Once upon</s>"])
def test_beginning_and_end_are_there_once_whoever_wrote_them(make, text):
    told = encoder(beginning(make))
    tokenizer = told.tokenizer
    bare = tokenizer("Once upon", add_special_tokens=False)["input_ids"]
    whole = [tokenizer.bos_token_id, *bare, tokenizer.eos_token_id]
    example = plant(supervised.parse(1, {"text": text}), told).examples[0]
    assert [*example.prompt.tolist(), *example.answers[0].ids.tolist()] == whole
    row = plant(supervised.parse(1, {"prompt": text.removesuffix("</s>"), "completion": ". So</s>"}), told).examples[0]
    assert [*row.prompt.tolist(), *row.answers[0].ids.tolist()].count(tokenizer.bos_token_id) == 1
    assert row.answers[0].ids.tolist().count(tokenizer.eos_token_id) == 1


def test_a_text_with_nothing_to_learn_is_left_out(byte_tokenizer):
    for row in ({"text": ""}, {"text": " \n"}, {"prompt": "a", "completion": " "}):
        with pytest.raises(LeftOut, match="empty answer"):
            plant(supervised.parse(1, row), encoder(byte_tokenizer()))


def answers(*rows: tuple[str, str, bool]) -> list[binary.Labelled]:
    names = ("prompt", "completion", "label")
    return [binary.parse(k, dict(zip(names, row, strict=True))) for k, row in enumerate(rows, 1)]


def test_a_labelled_answer_is_mismatched_with_the_next_kept_one_and_the_last_with_the_first(byte_tokenizer):
    told = encoder(byte_tokenizer())
    found = answers(
        ("p", "one", True), ("q", "much too long", False), ("r", "", False), ("s", "two", False), ("t", "three", True)
    )
    kept = tokenise(found, told, limit=7, data="binary")
    texts = [tuple(told.text(answer.ids) for answer in row.answers) for row in kept.rows]
    assert texts == [("one<end>", "two<end>"), ("two<end>", "three<end>"), ("three<end>", "one<end>")]
    assert [row.columns["label"] for row in kept.rows] == [1.0, 0.0, 1.0]
    assert kept.describe() == "3 answers (1 left out: empty answer, 1 left out: longer than 7 tokens)"


def test_a_mismatched_answer_is_cut_to_what_fits_behind_the_prompt(byte_tokenizer):
    told = encoder(byte_tokenizer())
    kept = tokenise(answers(("long prompt", "a", True), ("b", "a longer one", True)), told, limit=14, data="binary")
    assert told.text(kept.rows[0].answers[1].ids) == "a l"
    assert told.text(kept.rows[1].answers[1].ids) == "a<end>"


def test_one_labelled_answer_is_too_few(byte_tokenizer):
    with pytest.raises(Unusable, match="2 answers are needed, and the file has 1 answer") as refusal:
        tokenise(answers(("a", "b", True)), encoder(byte_tokenizer()), limit=9, data="binary", param="validation_file")
    assert (refusal.value.code, refusal.value.param) == ("no_usable_answers", "validation_file")


def lowering() -> PreTrainedTokenizerFast:
    """Loses capitals and accents, as BERT's."""
    inner = type(byte_level("</s>")).from_str(byte_level("</s>").to_str())
    inner.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True, clean_text=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


def test_a_tokenizer_that_changes_characters_is_told_with_the_first_of_them():
    rows = [{"prompt": "a", "completion": " b"}, {"prompt": "a", "completion": " Zoë"}, {"text": "Hm"}]
    kept = tokenise(
        [supervised.parse(k, row) for k, row in enumerate(rows, 1)], encoder(lowering()), limit=9, data="supervised"
    )
    told = "3 conversations (the tokenizer changes characters of 2: line 2 has 'Zoë' as 'zoe')"
    assert kept.describe() == told
    assert kept.data() == {"left_out": {}, "misread_lines": [2, 3]}


@pytest.mark.parametrize("make", [byte_level, metaspace])
def test_a_faithful_tokenizer_is_not_accused(make):
    for tokenizer in (beginning(make), FAMILIES["llama3"].tokenizer(make)):
        rows = [{"text": " Two  spaces, é日😀\n\n"}, {"prompt": "a ", "completion": " b\t"}]
        if tokenizer.chat_template:
            turns = [{"role": r, "content": c} for r, c in (("user", " é "), ("assistant", "<s> 日 "))]
            rows.append({"messages": turns})
        kept = tokenise([supervised.parse(1, row) for row in rows], encoder(tokenizer), limit=999, data="supervised")
        assert kept.misread == []
