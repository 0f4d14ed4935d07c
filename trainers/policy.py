"""The policy: a base model, what an earlier job taught it, and a fresh LoRA; with the LoRA off it is the reference."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from trainers.errors import Unusable
from trainers.spec import Assignment, Lora


def load_policy(assignment: Assignment, dtype: torch.dtype) -> PeftModel:
    """The model with a fresh adapter, which alone has gradients; its weights are `dtype`, the adapter's float32.

    Raises Unusable for weights that are no safetensors, target modules that match nothing, or an architecture
    whose output layer is not one linear map.
    """
    base = _base(assignment.model_path, dtype)
    if assignment.adapter_path is not None:
        base = PeftModel.from_pretrained(base, assignment.adapter_path).merge_and_unload()
    _check_targets(base, assignment.spec.peft)
    policy = get_peft_model(base, _lora(assignment.spec.peft))
    _check_output_layer(policy)
    if torch.cuda.is_available():
        policy.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    return policy


def head_of(model: Any) -> nn.Module:
    """States (n, d) → logits (n, V) of a causal language model."""
    return _Head(model)


class _Head(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self._output = [model.get_output_embeddings()]  # in a list: the layer stays the model's own
        self._scaling = getattr(model.config.get_text_config(), "logits_scaling", 1.0)  # Granite's
        self._cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._output[0](states)
        if self._scaling != 1:
            logits = logits / self._scaling
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap


def _base(path: Path, dtype: torch.dtype) -> Any:
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    for name in vars(config):
        # the reference must be the policy at the start: nothing of the base may be random
        if ("dropout" in name or name.endswith("pdrop")) and isinstance(getattr(config, name), float):
            setattr(config, name, 0.0)
    try:
        return AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except OSError as error:
        logging.getLogger(__name__).exception("loading failed")
        sentence = f"the base model's weights cannot be read: {type(error).__name__}"
        raise Unusable(sentence, code="model_unreadable", param="model") from error


def _check_targets(base: nn.Module, lora: Lora) -> None:
    if lora.target_modules == "all-linear":
        return
    output = base.get_output_embeddings()  # type: ignore[operator]
    for target in lora.target_modules:
        found = [module for name, module in base.named_modules() if name == target or name.endswith(f".{target}")]
        if not found:
            kinds = sorted({name.rpartition(".")[2] for name, m in base.named_modules() if isinstance(m, nn.Linear)})
            sentence = f"no layer of the model is called {target!r}; its linear layers are {', '.join(kinds)}"
            raise Unusable(sentence, code="no_such_layer", param="peft.target_modules")
        if any(module is output or not isinstance(module, nn.Linear) for module in found):
            sentence = f"{target!r} is not a linear layer inside the model's blocks; only those are adapted"
            raise Unusable(sentence, code="layer_not_adaptable", param="peft.target_modules")


def _lora(lora: Lora) -> LoraConfig:
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


@torch.no_grad()
def _check_output_layer(policy: PeftModel) -> None:
    """States are cut to the completion before the output layer: that must give what the model itself gives."""
    base = policy.get_base_model()
    probe = torch.arange(4, device=base.device)[None] % base.config.get_text_config().vocab_size
    own = base(input_ids=probe, use_cache=False).logits[0].float()
    ours = head_of(base)(base.base_model(input_ids=probe, use_cache=False).last_hidden_state[0]).float()
    if not torch.allclose(own, ours, atol=1e-3, rtol=1e-3, equal_nan=True):
        sentence = f"{type(base).__name__} computes its output in a way that this trainer does not know"
        raise Unusable(sentence, code="architecture_unknown", param="model")
