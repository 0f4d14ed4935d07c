"""The scoring process from outside: its token, its refusals, its client and the reward function for TRL."""

import math
import os
import subprocess
import sys
from functools import partial

import httpx
import pytest
from pydantic import ValidationError

from reward.client import RewardClient, RewardError, reward_function
from reward.pieces import pieces
from reward.spec import DensityRatio

MODEL = DensityRatio(strong="strong", weak="weak")


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}])
def test_without_the_token_nothing_is_scored(url, header):
    answer = httpx.post(f"{url}/v1/rewards", json={}, headers=header, trust_env=False)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_it_says_that_it_lives_without_a_token_and_shows_nothing_else(url):
    assert httpx.get(f"{url}/livez", trust_env=False).json() == {"status": "alive"}
    assert [httpx.get(f"{url}/{path}", trust_env=False).status_code for path in ("docs", "openapi.json")] == [404, 404]


def test_a_malformed_order_is_refused_by_field(url):
    headers = {"Authorization": "Bearer secret"}
    answer = httpx.post(f"{url}/v1/rewards", json={"request": {}, "endpoints": {}}, headers=headers, trust_env=False)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "request.model"
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_the_process_does_not_start_without_a_token():
    env = {name: value for name, value in os.environ.items() if name != "PREFSERVE_REWARD_TOKEN"}
    argv = [sys.executable, "-m", "reward.app", "--port", "1"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "PREFSERVE_REWARD_TOKEN must hold the token" in done.stderr


def test_the_client_tells_a_wrong_key_from_a_wrong_input(url):
    with RewardClient(f"{url}/v1", "wrong") as client:
        with pytest.raises(RewardError) as caught:
            client.score(MODEL, [{"prompt": [0], "response": [1]}])
        assert (caught.value.status, caught.value.type) == (401, "authentication_error")
        with pytest.raises(ValidationError):
            client.score(MODEL, [{"prompt": [0], "response": []}])


class Placed(RewardClient):
    """A client of the scoring process itself."""

    def __init__(self, url, toy):
        super().__init__(f"{url}/v1", "secret", timeout=10)
        self.score = partial(self.score, endpoints=toy.endpoints)


def test_the_reward_function_scores_texts_and_conversations_as_trl_hands_them_over(url, toy):
    with Placed(url, toy) as client:
        scored = reward_function(client, MODEL)
        assert scored.__name__ == "density_ratio"
        # strong and weak: . → a 0.6 and 0.3, a → c 0.4 and 0.2, c → . 0.7 and 0.25
        assert scored(prompts=["a", "a"], completions=["c", ""], trainer_state=None) == pytest.approx([math.log(2), 0])
        turns = [[{"role": "user", "content": "b"}]], [[{"role": "assistant", "content": "a"}]]
        assert scored(*turns) == pytest.approx([math.log(2)])
        many = scored(prompts=["a"] * 300, completions=["c."] * 300)
        assert many == pytest.approx([math.log(0.4 * 0.7 / (0.2 * 0.25))] * 300)
        with pytest.raises(TypeError):
            scored(prompts=["a"], completions=turns[1])


def test_pieces_give_back_the_spaces_that_tokens_lose_when_decoded_alone():
    assert pieces("<s> Once upon a", ["Once", "upon", "a"]) == [" Once", " upon", " a"]
    assert pieces("a bc  d", ["b", "c", "", " d"]) == [" b", "c", " ", " d"]
    assert pieces("x é", ["\ufffd", "\ufffd"]) == ["\ufffd", "\ufffd"]
    assert pieces("Once upon", [" upon"]) == [" upon"]
