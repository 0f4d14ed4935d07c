"""What cannot be served is refused from the config alone."""

import pytest

from service.errors import Invalid
from service.serving import limits
from service.serving.command import argv, env

LLAMA = {"architectures": ["LlamaForCausalLM"], "hidden_size": 256, "num_attention_heads": 8, "num_hidden_layers": 2}


@pytest.mark.parametrize("head_dim", [8, 16, 48, 320])
def test_a_head_without_a_cpu_kernel_is_refused_on_cpu_and_taken_on_a_gpu(head_dim):
    with pytest.raises(Invalid, match=f"head_dim is {head_dim}") as caught:
        limits.check_base(LLAMA | {"head_dim": head_dim}, gpu=False)
    assert caught.value.param == "model"
    limits.check_base(LLAMA | {"head_dim": head_dim}, gpu=True)


def test_the_head_is_worked_out_where_the_config_does_not_name_it():
    assert limits.head_dim(LLAMA) == 32
    limits.check_base(LLAMA, gpu=False)
    with pytest.raises(Invalid, match="head_dim"):
        limits.head_dim({"architectures": ["LlamaForCausalLM"]})


@pytest.mark.parametrize(
    "change", [{"architectures": ["MambaForCausalLM"]}, {"architectures": []}, {"quantization_config": {}}]
)
def test_models_whose_layers_adapters_do_not_fit_are_refused(change):
    with pytest.raises(Invalid):
        limits.check_base(LLAMA | change, gpu=True)


def test_an_adapter_must_fit_rank_and_layers(quick):
    assert limits.lora_hindrance(64, "all-linear", quick) is None
    assert limits.lora_hindrance(8, ["q_proj", "down_proj"], quick) is None
    assert limits.lora_hindrance(65, "all-linear", quick) == (
        "rank 65 is more than the 64 that engines take",
        "peft.r",
    )
    why, param = limits.lora_hindrance(8, ["q_proj", "lm_head"], quick)
    assert "lm_head; engines adapt q_proj" in why
    assert param == "peft.target_modules"


def test_vllm_gets_the_next_rank_that_it_takes():
    assert [limits.lora_rank_to_reserve(rank) for rank in (1, 2, 9, 64, 65)] == [1, 8, 16, 64, 128]
    with pytest.raises(Invalid):
        limits.lora_rank_to_reserve(1000)


def test_the_context_is_the_models_own_up_to_4096_or_what_is_wanted():
    assert limits.context({"max_position_embeddings": 512}, None) == 512
    assert limits.context({"max_position_embeddings": 131072}, None) == 4096
    assert limits.context({"max_position_embeddings": 131072}, 9000) == 9000
    assert limits.context({"max_position_embeddings": 512}, 9000) == 512


def test_the_cache_has_room_for_eight_full_sequences():
    config = LLAMA | {"num_key_value_heads": 4}
    # two (key, value) x float32 x layers x heads x head size
    assert limits.kv_cache_bytes(config, 4096) == max(64 * 2**20, 8 * 4096 * 2 * 4 * 2 * 4 * 32)
    assert limits.kv_cache_bytes(config, 16) == 64 * 2**20


def test_an_engine_listens_on_loopback_alone_and_sees_no_secret(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFSERVE_TEST_SECRET", "s")
    monkeypatch.setenv("HTTPS_PROXY", "http://elsewhere")
    words = argv(LLAMA, tmp_path, 1234, quick)
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--lora-target-modules") + 1 :] == list(limits.LORA_TARGETS)
    assert not {"PREFSERVE_TEST_SECRET", "HTTPS_PROXY"} & set(env(quick, "key"))


def test_no_prompt_is_cut_on_cpu_where_that_would_end_the_engine(quick, tmp_path):
    for context, step in ((512, 2048), (4096, 4096)):
        words = argv(LLAMA | {"max_position_embeddings": context}, tmp_path, 1234, quick)
        assert "--no-enable-chunked-prefill" in words
        assert words[words.index("--max-num-batched-tokens") + 1] == str(step)
