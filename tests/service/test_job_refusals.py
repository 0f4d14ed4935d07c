"""What is wrong with a job or its file is named when it is created."""

import json

import pytest

PAIR = {"prompt": "How was it?", "chosen": "Splendid.", "rejected": "Dreadful."}
#: nothing of this reaches a database
pytestmark = pytest.mark.parametrize("database_url", [None], indirect=True, ids=["any"])


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"model": "unknown"}, "model", "no model 'unknown'"),
        ({"training_file": "file-none"}, "training_file", "no file"),
        ({"method": {"type": "ppo"}}, "method", "dpo"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}}, "method.dpo.hyperparameters.beta", "greater than 0"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 250}}}}, "method.dpo.hyperparameters.beta", "less than or equal to 100"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"bta": 1}}}}, "method.dpo.hyperparameters.bta", "not permitted"),
        ({"method": None}, "method", "required"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"peft": {"r": 1025}}, "peft.r", "less than or equal to 1024"),
        ({"peft": {"type": "prefix"}}, "peft", "lora"),
        ({"peft": {"type": "full", "r": 8}}, "peft.r", "not permitted"),
        ({"peft": {"type": "ia3", "feedforward_modules": ["up_proj"]}}, "peft", "up_proj, which target_modules does not"),
        ({"peft": {"type": "oft", "target_modules": ["embed_tokens"]}}, "peft.target_modules", "embed_tokens"),
        ({"peft": {"r": 65}, "serving": "adapter"}, "peft.r", "rank 65 is more than the 64 that engines take: this job can only be served merged"),
        ({"peft": {"target_modules": ["c_attn"]}, "serving": "adapter"}, "peft.target_modules", "names c_attn; engines adapt q_proj"),
        ({"peft": {"use_dora": True}, "serving": "adapter"}, "serving", "plain LoRA adapters only"),
        ({"peft": {"type": "full"}, "serving": "adapter"}, "serving", "plain LoRA adapters only"),
        ({"peft": {"target_modules": ["lm_head"]}}, "peft.target_modules", "lm_head"),
        ({"resources": {"slots": 2}}, "resources.slots", "has 1"),
        ({"suffix": "../x"}, "suffix", "pattern"),
        ({"made_up": 1}, "made_up", "not permitted"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_job_is_named(create, fields, param, words):
    error = create(**fields)["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json\n", "line 1"),
        (json.dumps({"input": {"messages": [{"role": "user", "content": "x"}]}, "non_preferred_output": []}), ": preferred_output is missing"),
        ("[]\n", "line 1"),
        ("\n", "no "),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_training_file_is_named_by_its_line(create, upload, content, words):
    error = create(training_file=upload(content)["id"])["error"]
    assert (error["param"], error["code"]) == ("training_file", "invalid_training_file")
    assert words in error["message"]


def test_a_file_of_another_kind_is_refused_with_the_shape_that_the_method_wants(create, upload):
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    error = create(training_file=upload(json.dumps(PAIR) + "\n" + json.dumps(chat))["id"])["error"]
    assert (error["param"], error["code"]) == ("training_file", "invalid_training_file")
    shape = '{"input", "preferred_output", "non_preferred_output"} or {"prompt", "chosen", "rejected"}'
    assert error["message"] == f"pairs.jsonl: line 2: input is missing: a line is {shape}"


@pytest.mark.parametrize(
    ("method", "row", "shape"),
    [
        ("supervised", PAIR, 'completion is missing: a line is {"messages"}, {"prompt", "completion"} or {"text"}'),
        ("asft", {"input": {}}, 'messages is missing: a line is {"messages"}, {"prompt", "completion"} or {"text"}'),
        ("kto", PAIR, 'completion is missing: a line is {"prompt", "completion", "label"}, label true or false'),
    ],
)
def test_each_method_says_what_it_learns_from(create, upload, method, row, shape):
    file = upload(json.dumps(row))["id"]
    assert create(training_file=file, method={"type": method})["error"]["message"] == f"pairs.jsonl: line 1: {shape}"
    told = {"prompt": "a", "completion": "b", "label": True}
    assert create(training_file=upload(json.dumps(told))["id"], method={"type": method})["status"] == "queued"


def test_a_margin_that_the_settings_read_is_missed_at_submit(create, upload):
    method = {"type": "dpo", "dpo": {"hyperparameters": {"margin_scale": 1.0}}}
    error = create(training_file=upload()["id"], method=method)["error"]
    assert error["message"] == "pairs.jsonl: line 1: margin is missing, which the method's settings need"
