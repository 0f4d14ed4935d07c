"""Adapters as files: what peft loads is what was trained; two joined do what both did."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel

from trainers import adapters
from trainers.errors import Unusable
from trainers.policy import load_policy

IDS = torch.arange(1, 13)[None]


@pytest.fixture
def train(assign):
    """A policy whose adapter is no longer nought."""

    def moved(seed: int, **how):
        torch.manual_seed(seed)
        policy = load_policy(assign("dpo", **how), torch.float32).eval()
        for name, weight in policy.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(weight, std=0.1)
        return policy

    return moved


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def test_peft_loads_what_was_trained_and_no_place_is_named(train, tiny_llama, tmp_path):
    policy = train(1)
    adapters.write(adapters.trained(policy), tmp_path / "adapter", "company/base")
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter")
    assert torch.equal(logits(loaded), logits(policy))
    assert float((logits(policy) - logits(tiny_llama())).abs().max()) > 0.1
    text = (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert json.loads(text)["base_model_name_or_path"] == "company/base"
    assert str(tmp_path) not in text


def test_an_adapter_joined_to_an_earlier_one_is_their_sum_on_the_plain_base(train, tiny_llama, tmp_path):
    first = train(1, peft={"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]})
    adapters.write(adapters.trained(first), tmp_path / "first", "base")
    second = train(
        2, adapter_path=tmp_path / "first", peft={"r": 2, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    )
    both = adapters.joined(adapters.read(tmp_path / "first"), adapters.trained(second))
    adapters.write(both, tmp_path / "both", "base")
    assert (both.rank, both.alpha, both.target_modules) == (6, 6, ["down_proj", "q_proj", "v_proj"])
    served = PeftModel.from_pretrained(tiny_llama(), tmp_path / "both")
    assert torch.allclose(logits(served), logits(second), atol=1e-5, rtol=1e-5)
    assert float((logits(second) - logits(first)).abs().max()) > 0.1


def test_a_policy_that_goes_on_has_the_earlier_policy_as_its_reference(train, tmp_path):
    first = train(1)
    adapters.write(adapters.trained(first), tmp_path / "first", "base")
    second = train(2, adapter_path=tmp_path / "first")
    with second.disable_adapter():
        assert torch.allclose(logits(second), logits(first), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("field", ["use_dora", "use_rslora"])
def test_an_adapter_of_another_kind_is_refused(train, tmp_path, field):
    adapters.write(adapters.trained(train(1)), tmp_path / "adapter", "base")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {field: True}))
    with pytest.raises(Unusable, match=f"no plain LoRA .{field}"):
        adapters.read(tmp_path / "adapter")
