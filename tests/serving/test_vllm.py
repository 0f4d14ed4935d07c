"""Real vLLM engines on a real model: names, text, log-probs, adapters, scores, revival."""

import asyncio
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from reward.engine import Engine, Link
from reward.spec import Continuation, Conversation, DensityRatio, Implicit, Message, ScoreOrder, ScoreRequest
from service.errors import Invalid
from service.serving.command import STEP_TOKENS
from service.serving.engine import EngineSettings
from service.serving.facts import facts
from service.serving.gateway import forward
from service.serving.scoring import Scoring

pytestmark = [pytest.mark.vllm, pytest.mark.realdata]

STORY = "Once upon a time, there was a little girl named Lily."


@pytest.fixture(scope="module")
def scoring(tmp_path_factory):
    scoring = Scoring(tmp_path_factory.mktemp("scoring"))
    yield scoring
    scoring.close()


@pytest.fixture(scope="module")
def oracle(stories, weak, policy):
    """log π(id_k | before) for k ≥ 1 by transformers in float32, per model id."""
    models = {
        model.id: AutoModelForCausalLM.from_pretrained(model.base_path, dtype=torch.float32).eval()
        for model in (stories, weak, policy)
    }
    models[policy.id] = PeftModel.from_pretrained(models[policy.id], policy.adapter_path).eval()

    @torch.no_grad()
    def logprobs(model: str, ids: list[int]) -> list[float]:
        logits = models[model](torch.tensor([ids])).logits[0, :-1]
        return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()

    return logprobs


@pytest.fixture(scope="module")
def score(engines, scoring):
    def scored(strong, weaker, inputs, **fields):
        model = DensityRatio(strong=strong.id, weak=weaker.id)
        request = ScoreRequest(model=model, input=inputs, **fields)
        endpoints = {servable.id: engines.endpoint(servable) for servable in (strong, weaker)}
        return scoring.score(ScoreOrder(request=request, endpoints=endpoints))

    return scored


@pytest.fixture(scope="module")
def ids(engines, stories):
    """A text in the model's tokens."""
    return asked(engines.endpoint(stories), lambda engine: engine.tokens(STORY, special=True))


def asked(endpoint, question):
    async def ask():
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            return await question(Engine("model", Link(endpoint, client)))

    return asyncio.run(ask())


def complete(engines, servable, body):
    async def ask():
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            endpoint = engines.endpoint(servable)
            answer = await forward(
                body, route="completions", public_id=servable.id, endpoint=endpoint, tenant="ada", client=client
            )
            if not hasattr(answer, "body_iterator"):
                return json.loads(answer.body)
            return b"".join([piece async for piece in answer.body_iterator])

    return asyncio.run(ask())


def test_the_greedy_text_is_the_published_one(engines, stories, realdata):
    published = json.loads((realdata / "reference-vectors.json").read_text())["stories260k_greedy"]
    answer = complete(engines, stories, {"prompt": [1], "max_tokens": published["steps"], "temperature": 0})
    assert answer["choices"][0]["text"].strip() == published["text"].strip()
    assert answer["model"] == "stories"


def test_a_stream_says_the_same_under_the_public_name(engines, policy):
    body = {"prompt": [1], "max_tokens": 20, "temperature": 0}
    whole = complete(engines, policy, body)["choices"][0]["text"]
    *events, last = complete(engines, policy, body | {"stream": True}).decode().removesuffix("\n\n").split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert last == "data: [DONE]"
    assert {chunk["model"] for chunk in chunks} == {policy.id}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole


def test_a_refusal_of_vllm_comes_in_our_envelope(engines, stories):
    answer = complete(engines, stories, {"prompt": [1], "max_tokens": 5000})
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["param"] == "max_tokens"


def test_seeded_prompts_that_one_step_cannot_hold_are_answered_alike_twice(engines, stories, ids):
    prompts = [[1, i + 3, *ids * 6] for i in range(48)]  # no two share a beginning
    assert sum(map(len, prompts)) > 2 * STEP_TOKENS
    body = {"prompt": prompts, "max_tokens": 8, "temperature": 1, "seed": 5}
    first, second = (complete(engines, stories, body)["choices"] for _ in range(2))
    assert len(first) == 48
    assert [choice["text"] for choice in first] == [choice["text"] for choice in second]


def test_logprobs_equal_transformers(engines, stories, weak, policy, ids, oracle):
    seen = {
        m.id: asked(engines.endpoint(m), lambda engine: engine.score(ids)).logprobs for m in (stories, weak, policy)
    }
    for model, values in seen.items():
        assert values == pytest.approx(oracle(model, ids), abs=1e-4)
    assert max(abs(a - b) for a, b in zip(seen["stories"], seen[policy.id], strict=True)) > 0.01


def test_token_scores_are_the_models_difference_from_the_answers_first_token_on(score, stories, weak, ids, oracle):
    cut = 6
    given = Continuation(prompt=ids[:cut], response=ids[cut:])
    [scored] = score(stories, weak, [given], include=["token_scores", "logprobs"]).data
    expected = [a - b for a, b in zip(oracle("stories", ids), oracle("weak", ids), strict=True)][cut - 1 :]
    assert scored.token_scores == pytest.approx(expected, abs=1e-4)
    assert scored.score == pytest.approx(sum(scored.token_scores), abs=1e-9)
    assert scored.num_scored_tokens == len(ids) - cut
    assert scored.strong_logprob - scored.weak_logprob == pytest.approx(scored.score, abs=1e-9)
    assert "".join(scored.tokens) == STORY[STORY.index(scored.tokens[0].strip()) - 1 :]


def test_a_policy_over_its_base_needs_one_engine(score, policy, stories, ids, oracle):
    [scored] = score(policy, stories, [Continuation(prompt=ids[:3], response=ids[3:])], include=["token_scores"]).data
    expected = [a - b for a, b in zip(oracle(policy.id, ids), oracle("stories", ids), strict=True)][2:]
    assert scored.token_scores == pytest.approx(expected, abs=1e-4)


def test_the_base_model_stays_itself_when_every_slot_holds_an_adapter(engines, score, policy, stories, ids, oracle):
    others = [replace(policy, id=f"{policy.id}{i}", adapter=f"other{i}") for i in range(EngineSettings.max_loras)]
    for other in others:
        complete(engines, other, {"prompt": [1], "max_tokens": 1})
    given = [Continuation(prompt=ids[:3], response=ids[3:])] * 8
    for scored in score(policy, stories, given).data:  # in batches of both models
        assert scored.weak_logprob == pytest.approx(sum(oracle("stories", ids)[2:]), abs=1e-3)
        assert scored.strong_logprob == pytest.approx(sum(oracle(policy.id, ids)[2:]), abs=1e-3)
    for other in others:
        engines.unload(other)


def test_a_model_over_itself_is_worth_nothing_and_the_swap_turns_the_sign(score, stories, weak, ids):
    given = [Continuation(prompt=ids[:4], response=ids[4:])]
    assert score(stories, stories, given).data[0].score == pytest.approx(0, abs=1e-5)
    there, back = score(stories, weak, given).data[0], score(weak, stories, given).data[0]
    assert there.score == pytest.approx(-back.score, abs=1e-5)
    assert abs(there.score) > 0.1


def test_an_answer_of_one_token_and_many_inputs_at_once(score, stories, weak, ids, oracle):
    inputs = [Continuation(prompt=ids[:k], response=[ids[k]]) for k in range(1, len(ids))]
    listed = score(stories, weak, inputs, aggregation="mean")
    expected = [a - b for a, b in zip(oracle("stories", ids), oracle("weak", ids), strict=True)]
    assert [scored.score for scored in listed.data] == pytest.approx(expected, abs=1e-4)
    assert [scored.num_scored_tokens for scored in listed.data] == [1] * len(inputs)
    assert listed.usage.total_tokens == sum(range(2, len(ids) + 1))


def test_text_is_scored_as_its_tokens(score, stories, weak, ids):
    text = Continuation(prompt="Once upon a time", response=STORY.removeprefix("Once upon a time"))
    answer = score(stories, weak, [text, Continuation(prompt=ids[:5], response=ids[5:])], include=["token_scores"])
    assert answer.data[0].token_scores == pytest.approx(answer.data[1].token_scores, abs=1e-5)


def test_inputs_that_cannot_be_scored_are_named(score, stories, weak, ids):
    fine = Continuation(prompt=[1], response=[403])
    with pytest.raises(
        Invalid, match=r"input\[1\] has 512 tokens \(12 prompt, 500 answer\); the strong model takes 511"
    ):
        score(stories, weak, [fine, Continuation(prompt=[1] * 12, response=[5] * 500)])
    score(stories, weak, [Continuation(prompt=[1] * 11, response=[5] * 500)])
    with pytest.raises(Invalid, match=r"input\[1\] has an empty prompt") as caught:
        score(stories, weak, [fine, Continuation(prompt=[], response=[5])])
    assert caught.value.param == "input[1]"
    with pytest.raises(Invalid, match="vocabulary"):
        score(stories, weak, [Continuation(prompt=[1], response=[512])])
    turns = [Message(role="user", content="hi"), Message(role="assistant", content="ho")]
    with pytest.raises(Invalid, match="chat template"):
        score(weak, stories, [Conversation(messages=turns)])


def test_a_conversation_is_scored_from_the_strong_models_template(score, stories, weak, oracle):
    tokenizer = AutoTokenizer.from_pretrained(stories.base_path)
    answer = "Lily went home.\n"
    prompt = tokenizer("user: Where is Lily?\nassistant: ", add_special_tokens=False)["input_ids"]
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    ids = prompt + tokenizer("\n" + answer, add_special_tokens=False)["input_ids"][len(newline) :]
    turns = [Message(role="user", content="Where is Lily?"), Message(role="assistant", content=answer.strip())]
    listed = score(stories, weak, [Conversation(messages=turns)], include=["token_scores"])
    expected = [a - b for a, b in zip(oracle("stories", ids), oracle("weak", ids), strict=True)][len(prompt) - 1 :]
    assert listed.data[0].token_scores == pytest.approx(expected, abs=1e-4)
    assert "".join(listed.data[0].tokens) == answer
    assert (listed.usage.prompt_tokens, listed.usage.total_tokens) == (len(prompt), len(ids))


def ratio(oracle, ids, start, strong="stories", weak="weak"):
    return [a - b for a, b in zip(oracle(strong, ids), oracle(weak, ids), strict=True)][start - 1 :]


@pytest.mark.parametrize("answer", ["Lily went home.", "Zoë said: naïve 😀 €5", "."])
def test_a_template_that_brings_its_own_bos_gets_no_second_one(score, stories, weak, oracle, answer):
    tokenizer = AutoTokenizer.from_pretrained(stories.base_path)
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Where is Lily?"}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    after = tokenizer(f"\n{answer}\n", add_special_tokens=False)["input_ids"][len(newline) :]
    given = Conversation(messages=[*(Message(**turn) for turn in turns), Message(role="assistant", content=answer)])
    [scored] = score(stories, weak, [given], include=["token_scores"]).data
    assert before.count(tokenizer.bos_token_id) == 1
    assert scored.token_scores == pytest.approx(ratio(oracle, before + after, len(before)), abs=1e-3)


def test_text_of_many_bytes_is_scored_by_its_tokens(score, stories, weak, oracle):
    tokenizer = AutoTokenizer.from_pretrained(stories.base_path)
    prompt, answer = "Once upon a time", " Zoë ate 😀 naïve €5 crêpes"
    before, whole = tokenizer(prompt)["input_ids"], tokenizer(prompt + answer)["input_ids"]
    assert whole[: len(before)] == before
    [scored] = score(stories, weak, [Continuation(prompt=prompt, response=answer)], include=["token_scores"]).data
    assert scored.token_scores == pytest.approx(ratio(oracle, whole, len(before)), abs=1e-3)


def test_a_score_is_the_same_in_any_company_and_order(score, stories, weak, ids, oracle):
    inputs = [Continuation(prompt=ids[:k], response=ids[k : k + 3]) for k in range(2, len(ids) - 2)]
    listed = score(stories, weak, inputs, include=["token_scores"]).data
    with ThreadPoolExecutor(8) as pool:
        alone = list(pool.map(lambda one: score(stories, weak, [one], include=["token_scores"]).data[0], inputs[::-1]))
    for k, (one, other) in enumerate(zip(listed, alone[::-1], strict=True), start=2):
        expected = ratio(oracle, ids[: k + 3], k)
        assert one.token_scores == pytest.approx(expected, abs=1e-3)
        assert other.token_scores == pytest.approx(expected, abs=1e-3)


def test_an_implicit_reward_is_beta_times_the_policys_log_ratio_to_its_start(
    engines, scoring, policy, stories, ids, oracle
):
    model = Implicit(policy=policy.id, reference=stories.id, beta=0.3)
    request = ScoreRequest(
        model=model, input=[Continuation(prompt=ids[:4], response=ids[4:])], include=["token_scores"]
    )
    endpoints = {servable.id: engines.endpoint(servable) for servable in (policy, stories)}
    listed = scoring.score(ScoreOrder(request=request, endpoints=endpoints))
    expected = [0.3 * value for value in ratio(oracle, ids, 4, policy.id, "stories")]
    assert listed.data[0].token_scores == pytest.approx(expected, abs=1e-3)
    assert listed.provenance.models["policy"].engine.startswith("vllm 0.")


def test_what_is_known_of_a_model_tells_adapters_and_templates_apart(stories, weak, policy, vllm_settings):
    one, other, tuned = (facts(servable, servable.base, vllm_settings) for servable in (stories, weak, policy))
    assert (one.dtype, one.tokenizer_sha256) == ("float32", other.tokenizer_sha256)
    assert (one.chat_template_sha256 is None, other.chat_template_sha256) == (False, None)
    assert len({one.digest, other.digest, tuned.digest}) == 3
    assert "<s>" in one.control_tokens


def test_a_very_long_input_is_refused_by_its_length(score, stories, weak):
    with pytest.raises(Invalid, match="100000 tokens"):
        score(stories, weak, [Continuation(prompt=[1], response=[5] * 99_999)])
    with pytest.raises(Invalid, match="tokens"):
        score(stories, weak, [Continuation(prompt="Once", response=" upon a time" * 20_000)])


def test_a_dead_scoring_process_is_started_again(score, scoring, stories, ids):
    asked = [Continuation(prompt=ids[:4], response=ids[4:])]
    score(stories, stories, asked)
    before = scoring.pid
    os.kill(before, signal.SIGKILL)
    [scored] = score(stories, stories, asked).data
    assert scored.num_scored_tokens == len(ids) - 4
    assert scoring.pid not in (None, before)


def test_a_killed_vllm_comes_back_with_its_adapter(engines, policy, ids, oracle):
    engines.endpoint(policy)
    [status] = [status for status in engines.status() if status.base == policy.base]
    os.killpg(status.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(found.pid == status.pid for found in engines.status()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    revived = asked(engines.endpoint(policy), lambda engine: engine.score(ids))
    assert revived.logprobs == pytest.approx(oracle(policy.id, ids), abs=1e-4)
    [after] = [status for status in engines.status() if status.base == policy.base]
    assert (after.state, after.adapters) == ("ready", (policy.adapter,))
    assert after.pid != status.pid


def test_the_engines_log_is_quiet(engines, vllm_settings, stories):
    log = (vllm_settings.folder(stories.base) / "log.txt").read_text()
    assert "Route:" not in log
    assert len(log.splitlines()) < 40
