"""Pairs to ids: the prompt as it is served, the answer cut exactly behind it."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from trainers.data.encoder import Encoder
from trainers.data.lines import BadLine
from trainers.data.preference import Pair
from trainers.data.replies import LeftOut
from trainers.data.tokens import tokenise
from trainers.data.trees import plant
from trainers.errors import Unusable

USER = {"role": "user", "content": "Hi"}
GOOD, BAD = {"role": "assistant", "content": "Hello"}, {"role": "assistant", "content": "No"}


def encoder(tokenizer) -> Encoder:
    return Encoder(tokenizer, len(tokenizer))


def sentencepiece(**special: str) -> PreTrainedTokenizerFast:
    """As Llama 2's: a ▁ before every text, merges across words' inner letters, a beginning token."""
    letters = ["▁", *"Onceuptaim"]
    merges = [("▁", "O"), ("▁O", "n"), ("u", "p"), ("up", "o"), ("▁", "up"), ("▁up", "o"), ("▁upo", "n")]
    pieces = letters + ["".join(merge) for merge in merges] + ["o", "<s>", "</s>"]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    inner = Tokenizer(models.BPE(vocabulary, merges))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def test_a_text_rows_answers_follow_the_prompts_ids_and_end_once(byte_tokenizer):
    tokenizer = byte_tokenizer()
    row = plant(Pair(1, "ab", "cd", "e<end>"), encoder(tokenizer)).examples[0]
    assert row.prompt.tolist() == tokenizer("ab")["input_ids"]
    assert row.answers[0].ids.tolist() == [*tokenizer("cd")["input_ids"], 0]
    assert row.answers[1].ids.tolist() == [*tokenizer("e")["input_ids"], 0]
    assert row.tokens == 2 + 3 + 2


def test_a_conversation_is_rendered_once_by_the_template(byte_tokenizer):
    tokenizer = byte_tokenizer()
    row = plant(Pair(1, (USER,), (GOOD,), (BAD,)), encoder(tokenizer)).examples[0]
    assert tokenizer.decode(row.prompt) == "<user>Hi\n<assistant>"
    assert tokenizer.decode(row.answers[0].ids) == "Hello\n"
    assert tokenizer.decode(row.answers[1].ids) == "No\n"


def test_token_ids_are_taken_as_they_are(byte_tokenizer):
    row = plant(Pair(1, (5,), (0, 7), (8,)), encoder(byte_tokenizer())).examples[0]
    assert (row.prompt.tolist(), row.answers[0].ids.tolist(), row.answers[1].ids.tolist()) == ([5], [0, 7], [8])


def test_a_merge_over_the_boundary_leaves_the_prompt_as_it_is_served():
    tokenizer = sentencepiece()
    asked = tokenizer("On up")["input_ids"]
    whole = tokenizer("On upon a")["input_ids"]
    assert whole[: len(asked)] != asked  # ▁upon is one token, ▁up another
    row = plant(Pair(1, "On up", "on a", " a time"), encoder(tokenizer)).examples[0]
    assert row.prompt.tolist() == asked
    assert tokenizer.decode([*asked, *row.answers[0].ids]) == "On upon a"
    assert tokenizer.convert_ids_to_tokens(row.answers[0].ids.tolist()) == ["o", "n", "▁", "a"]
    assert tokenizer.convert_ids_to_tokens(row.answers[1].ids.tolist())[:2] == ["▁", "a"]


def test_messages_need_a_template(byte_tokenizer):
    with pytest.raises(BadLine, match="line 4: messages need a chat template"):
        plant(Pair(4, (USER,), (GOOD,), (BAD,)), encoder(byte_tokenizer(template=None)))


def test_a_template_that_refuses_or_rewrites_is_named(byte_tokenizer):
    refusing = byte_tokenizer(template="{{ raise_exception('users only') }}")
    with pytest.raises(BadLine, match="line 2: the model's chat template refuses these messages: users only"):
        plant(Pair(2, (USER,), (GOOD,), (BAD,)), encoder(refusing))
    rewriting = byte_tokenizer(template="{{ messages | length }}{% if add_generation_prompt %}>{% endif %}")
    with pytest.raises(LeftOut, match="renders the prompt differently once it is answered"):
        plant(Pair(2, (USER,), (GOOD,), (BAD,)), encoder(rewriting))


def test_an_id_beyond_the_vocabulary_is_refused(byte_tokenizer):
    with pytest.raises(BadLine, match="line 3: the preferred answer holds token id 999; the model knows 0 to 256"):
        plant(Pair(3, (5,), (999,), (8,)), encoder(byte_tokenizer()))


def test_a_prompt_without_tokens_is_refused(byte_tokenizer):
    with pytest.raises(BadLine, match="line 1: the prompt has no tokens"):
        plant(Pair(1, "", "a", "b"), encoder(byte_tokenizer()))


def test_what_says_nothing_or_does_not_fit_is_dropped_and_counted(byte_tokenizer):
    pairs = [Pair(1, "a", "b", "b"), Pair(2, "a", "b", "c"), Pair(3, "a", "b" * 9, "c")]
    kept = tokenise(pairs, encoder(byte_tokenizer()), limit=8)
    assert [row.line for row in kept.rows] == [2]
    assert kept.describe() == "1 pair (1 left out: identical answers, 1 left out: longer than 8 tokens)"


def test_nothing_left_to_train_on_is_a_refusal(byte_tokenizer):
    with pytest.raises(
        Unusable, match=r"no pair is left to train on: 0 pairs .1 left out: identical answers"
    ) as refusal:
        tokenise([Pair(1, "a", "b", "b")], encoder(byte_tokenizer()), limit=8)
    assert (refusal.value.code, refusal.value.param) == ("no_usable_pairs", "training_file")


def test_each_tokens_text_reads_as_in_the_whole(byte_tokenizer):
    tokenizer = byte_tokenizer()
    ids = tokenizer("é!")["input_ids"]
    assert encoder(tokenizer).pieces(ids)[-1] == "!"
    assert "".join(encoder(sentencepiece()).pieces(sentencepiece()("On up")["input_ids"])) == "On up"
