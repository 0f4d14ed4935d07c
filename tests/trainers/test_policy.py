"""What can be adapted, and what is refused with a sentence."""

from __future__ import annotations

import pytest
import torch
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from trainers.errors import Unusable
from trainers.policy import load_policy

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 0,
}


def test_an_unknown_layer_is_refused_by_name(assign):
    with pytest.raises(
        Unusable, match="no layer of the model is called 'c_attn'; its linear layers are down_proj,"
    ) as e:
        load_policy(assign("dpo", peft={"target_modules": ["q_proj", "c_attn"]}), torch.float32)
    assert (e.value.code, e.value.param) == ("no_such_layer", "peft.target_modules")


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens", "norm"])
def test_what_is_no_linear_layer_of_a_block_is_not_adapted(assign, name):
    with pytest.raises(Unusable, match=f"'{name}' is not a linear layer inside the model's blocks"):
        load_policy(assign("dpo", peft={"target_modules": [name]}), torch.float32)


def test_the_named_layers_alone_are_adapted(assign):
    policy = load_policy(assign("dpo", peft={"target_modules": ["q_proj"]}), torch.float32)
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert len(trained) == 4
    assert all("q_proj.lora_" in name for name in trained)


def test_the_base_may_be_bf16_while_the_adapter_stays_fp32(assign):
    policy = load_policy(assign("dpo"), torch.bfloat16)
    kinds = {p.requires_grad: p.dtype for p in policy.parameters()}
    assert kinds == {False: torch.bfloat16, True: torch.float32}


def test_weights_that_cannot_be_read_are_the_models_fault(assign, model_path, tmp_path):
    (tmp_path / "config.json").write_text((model_path / "config.json").read_text())
    with pytest.raises(Unusable, match="the base model's weights cannot be read"):
        load_policy(assign("dpo", model_path=tmp_path), torch.float32)


def test_a_capped_output_layer_is_followed_and_an_unknown_one_is_refused(assign, tmp_path):
    capped = Gemma2ForCausalLM(Gemma2Config(**SHAPE, final_logit_softcapping=0.05))
    capped.save_pretrained(tmp_path / "capped")
    load_policy(assign("dpo", model_path=tmp_path / "capped"), torch.float32)
    scaled = CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.01))
    scaled.save_pretrained(tmp_path / "scaled")
    with pytest.raises(Unusable, match="CohereForCausalLM computes its output in a way"):
        load_policy(assign("dpo", model_path=tmp_path / "scaled"), torch.float32)
