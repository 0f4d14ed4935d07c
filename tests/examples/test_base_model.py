"""The demo's tokenizer and template: what goes in comes out, and a conversation reads as it was trained."""

from __future__ import annotations

import pytest

from examples.demo import base_model, corpus


@pytest.fixture(scope="module")
def tokenizer():
    rows = corpus.base_corpus(600)
    return base_model.train_tokenizer([text for row in rows for text in row])


@pytest.mark.parametrize("text", ["The plot is warm.", " two  spaces\n\ttab", "Zoë – 映画 🎬", "", "unseen Wörds-2026"])
def test_any_text_comes_back_from_the_tokenizer_unchanged(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_the_tokenizer_adds_no_token_of_its_own(tokenizer):
    assert tokenizer("The plot")["input_ids"] == tokenizer("The plot", add_special_tokens=False)["input_ids"]


def test_a_conversation_is_rendered_as_the_documents_that_were_learned(tokenizer):
    question, answer = corpus.base_corpus(1)[0]
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == base_model.documents([(question, answer)])[0]


def test_the_prompt_is_a_prefix_of_the_conversation_in_text_and_in_tokens(tokenizer):
    messages = [{"role": "user", "content": "Please."}, {"role": "assistant", "content": "It is warm."}]
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert whole == prompt + "It is warm." + base_model.END
    ids = [tokenizer(text)["input_ids"] for text in (prompt, whole)]
    assert ids[1][: len(ids[0])] == ids[0]
    assert ids[1][-1] == tokenizer.eos_token_id


def test_a_role_that_the_model_does_not_know_is_refused(tokenizer):
    with pytest.raises(Exception, match="user and assistant turns only"):
        tokenizer.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


def test_the_tokenizer_and_its_template_survive_saving(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path, save_jinja_files=False)
    again = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "Please."}]
    assert again.apply_chat_template(messages) == tokenizer.apply_chat_template(messages)
    assert again.chat_template == base_model.CHAT_TEMPLATE


def test_every_eighth_document_is_a_bare_review():
    documents = base_model.documents(corpus.base_corpus(16))
    assert [base_model.USER in document for document in documents] == ([True] * 7 + [False]) * 2


def test_the_heads_are_wide_enough_for_the_engine_on_cpu():
    assert base_model.SHAPE["head_dim"] == 32
    assert base_model.SHAPE["max_position_embeddings"] >= 256


def test_a_model_that_was_not_made_is_not_found(tmp_path):
    assert base_model.cached(tmp_path) is None
