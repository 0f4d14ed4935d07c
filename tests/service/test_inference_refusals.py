"""Inference and rewards where nothing can serve: a sentence, and the service stays up."""


def test_a_missing_serving_environment_is_said(api, settings, parts):
    answer = api.post("/v1/completions", json={"model": "tiny", "prompt": [1]})
    assert answer.status_code == 503
    assert "serving environment" in answer.json()["error"]["message"]
    assert api.get("/readyz").status_code == 200


def test_an_unknown_model_is_a_404_with_its_name(api):
    answer = api.post("/v1/chat/completions", json={"model": "../../x", "messages": []})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def test_a_body_without_a_model_is_refused_by_field(api):
    for path in ("chat/completions", "completions"):
        assert api.post(f"/v1/{path}", json={}).json()["error"]["param"] == "model"


def test_a_reward_over_an_unknown_model_names_which(api):
    reward = {"type": "density_ratio", "strong": "tiny", "weak": "gone"}
    body = {"model": reward, "input": [{"prompt": "a", "response": "b"}]}
    assert api.post("/v1/rewards", json=body).json()["error"]["param"] == "model.weak"
