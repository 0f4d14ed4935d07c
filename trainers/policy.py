"""The policy: a base model, what an earlier job taught it, and what trains: a fresh adapter, or every weight."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, OFTConfig, PeftConfig, PeftModel, VeraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations import deepspeed as integration

from trainers.errors import Unusable
from trainers.peft_kinds import Full, Peft
from trainers.spec import Assignment

CONFIGS: dict[str, type[PeftConfig]] = {"lora": LoraConfig, "ia3": IA3Config, "oft": OFTConfig, "vera": VeraConfig}


def load_policy(assignment: Assignment, dtype: torch.dtype) -> Any:
    """The model as it trains: a PeftModel whose adapter alone has gradients, in float32; or the model, all of it.

    Its weights are `dtype`. Raises Unusable for weights that are no safetensors, target modules that match nothing,
    or an architecture whose output layer is not one linear map.
    """
    base, kind = load_start(assignment, dtype), assignment.spec.peft
    if torch.cuda.is_available():
        base.gradient_checkpointing_enable({"use_reentrant": False})
    if isinstance(kind, Full):
        _check_output_layer(base)
        return base.requires_grad_(True)
    _check_targets(base, kind)
    policy = _adapted(base, kind)
    _check_output_layer(base)
    return policy


def load_start(assignment: Assignment, dtype: torch.dtype) -> Any:
    """The causal language model that the policy is at the start, without anything that trains; eval mode."""
    with _outside_deepspeed():
        base = _base(assignment.model_path, dtype)
    if assignment.adapter_path is not None:
        base = PeftModel.from_pretrained(base, assignment.adapter_path).merge_and_unload()
    return base


def base_of(policy: Any) -> Any:
    """The causal language model of a policy, its adapted layers in it."""
    return policy.get_base_model() if isinstance(policy, PeftModel) else policy


def head_of(model: Any) -> Head:
    """States (n, d) → logits (n, V) of a causal language model; the layer stays the model's own."""
    return Head(model.get_output_embeddings(), model.config)


class Head(nn.Module):
    """An output layer with what a config says is done to its logits."""

    def __init__(self, output: nn.Module, config: Any) -> None:
        super().__init__()
        self._output = [output]  # in a list: whoever owns the layer registers it
        self.scaling: float = getattr(config.get_text_config(), "logits_scaling", 1.0)  # Granite's
        self.cap: float | None = getattr(config.get_text_config(), "final_logit_softcapping", None)

    @property
    def weight(self) -> torch.Tensor:
        """(V, d), the output embedding."""
        weight = self._output[0].weight
        assert isinstance(weight, torch.Tensor)  # noqa: S101 - of a linear layer
        return weight

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """As the model does it, scaled and capped."""
        logits: torch.Tensor = self._output[0](states)
        if self.scaling != 1:
            logits = logits / self.scaling
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


@contextlib.contextmanager
def _outside_deepspeed() -> Iterator[None]:
    """Whole weights on this rank, also once a ZeRO-3 run has begun: transformers would cut them up over all ranks."""
    held, integration._hf_deepspeed_config_weak_ref = integration._hf_deepspeed_config_weak_ref, None
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = held


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


def _adapted(base: Any, kind: Peft) -> PeftModel:
    asked = CONFIGS[kind.type](**kind.model_dump(exclude={"type"}), task_type="CAUSAL_LM")  # type: ignore[attr-defined]
    try:
        return get_peft_model(base, asked)
    except ValueError as error:  # a block size that divides no layer, say
        sentence = f"the peft library refuses these settings: {str(error).splitlines()[0][:300]}"
        raise Unusable(sentence, code="peft_refused", param="peft") from error


def _check_targets(base: Any, kind: Peft) -> None:
    if kind.target_modules == "all-linear":
        return
    output = base.get_output_embeddings()
    for target in kind.target_modules:
        found = [module for name, module in base.named_modules() if name == target or name.endswith(f".{target}")]
        if not found:
            kinds = sorted({name.rpartition(".")[2] for name, m in base.named_modules() if isinstance(m, nn.Linear)})
            sentence = f"no layer of the model is called {target!r}; its linear layers are {', '.join(kinds)}"
            raise Unusable(sentence, code="no_such_layer", param="peft.target_modules")
        if any(module is output or not isinstance(module, nn.Linear) for module in found):
            sentence = f"{target!r} is not a linear layer inside the model's blocks; only those are adapted"
            raise Unusable(sentence, code="layer_not_adaptable", param="peft.target_modules")


@torch.no_grad()
def _check_output_layer(base: Any) -> None:
    """States are cut to the completion before the output layer: that must give what the model itself gives."""
    probe = torch.arange(4, device=base.device)[None] % base.config.get_text_config().vocab_size
    own = base(input_ids=probe, use_cache=False).logits[0].float()
    ours = head_of(base)(base.base_model(input_ids=probe, use_cache=False).last_hidden_state[0]).float()
    if not torch.allclose(own, ours, atol=1e-3, rtol=1e-3, equal_nan=True):
        sentence = f"{type(base).__name__} computes its output in a way that this trainer does not know"
        raise Unusable(sentence, code="architecture_unknown", param="model")
