"""The arithmetic floor, against what torch counts and against couples counted one by one."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from bench.flops import floor, gemm_rate
from bench.workload import Scale

SCALE = Scale(32, 48, 3, 4, 2, 70)
PROMPT, ANSWER = 5, 7


def products(peft: str) -> dict[str, int]:
    """FLOPs of the matrix products of a forward and backward pass, as torch counts them."""
    shape = {name: getattr(SCALE, name) for name in SCALE.__dataclass_fields__ if hasattr(LlamaConfig(), name)}
    model = LlamaForCausalLM(LlamaConfig(**(shape | {"dtype": "float32"})))
    model.requires_grad_(peft == "full")
    inputs = torch.randn(1, PROMPT + ANSWER, SCALE.hidden_size, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        states = model.model(inputs_embeds=inputs).last_hidden_state
        backbone = counter.get_total_flops() - attention(counter)
        model.lm_head(states[0, PROMPT - 1 : -1]).sum().backward()
    return {"all": counter.get_total_flops() - attention(counter), "forward": backbone}


def attention(counter: FlopCounterMode) -> int:
    counts = counter.get_flop_counts()["Global"]
    return sum(count for operation, count in counts.items() if "attention" in str(operation))


@pytest.mark.parametrize(("peft", "passes"), [("full", 3), ("lora", 2)])
def test_the_floor_is_what_torch_counts_for_a_pair_with_one_answer(peft, passes):
    work, counted = floor(SCALE, (PROMPT, ANSWER, 0), peft), products(peft)
    assert work.backbone + work.head == counted["all"]
    assert work.backbone == passes * counted["forward"]


def test_attention_counts_each_query_with_each_key_it_may_see():
    prompt, chosen, rejected = 3, 4, 2
    seen = sum(place + 1 for place in range(prompt + chosen))
    seen += sum(prompt + place + 1 for place in range(rejected))
    scores_and_values = 2 * 2 * SCALE.hidden_size * SCALE.num_hidden_layers * seen
    assert floor(SCALE, (prompt, chosen, rejected), "lora").attention == 3 * scores_and_values


def test_a_prompt_is_counted_once_and_only_answers_reach_the_head():
    one, longer = (floor(SCALE, (prompt, 4, 6), "full") for prompt in (8, 16))
    assert one.head == longer.head == 6 * SCALE.vocab_size * SCALE.hidden_size * 10
    assert longer.backbone - one.backbone == 6 * SCALE.backbone * 8


def test_the_machine_multiplies_at_a_plausible_rate():
    assert 1e8 < gemm_rate(SCALE, 64, 32, seconds=0.05) < 1e15
