"""What an engine can serve, known from a model's config alone: refused before a job trains or an engine starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from service.errors import Invalid

#: the sizes that vLLM's CPU attention has kernels for; any other passes /health and dies at the first request
CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
#: vLLM takes no other value for --max-lora-rank
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
#: what engines keep room for; lm_head stays out: with it, two prompts scored at once end a vLLM 0.32 engine
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
#: text decoders of vLLM whose linear layers bear the names above
ARCHITECTURES = frozenset(
    f"{name}ForCausalLM" for name in ("Gemma", "Gemma2", "Gemma3", "Granite", "Llama", "Mistral", "Qwen2", "Qwen3")
)
DEFAULT_CONTEXT, LARGEST_CONTEXT = 2048, 4096
SMALLEST_KV_CACHE = 64 * 2**20
SEQUENCES_AT_ONCE = 8


class LoraLimits(Protocol):
    """The part of the engine settings that adapters must fit."""

    @property
    def max_lora_rank(self) -> int:
        """Largest rank."""

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Names of the linear layers that may be adapted."""


def check_base(config: Mapping[str, Any], *, gpu: bool) -> None:
    """Raises Invalid if a base model with this config.json cannot be served (param `model`)."""
    named = config.get("architectures") or ["none"]
    if named[0] not in ARCHITECTURES:
        raise Invalid(f"the architecture {named[0]} is not among {', '.join(sorted(ARCHITECTURES))}", param="model")
    if "quantization_config" in config:
        raise Invalid("the model is quantised; adapters are trained and served on plain weights", param="model")
    size = head_dim(config)
    if not gpu and size not in CPU_HEAD_DIMS:
        sizes = ", ".join(map(str, CPU_HEAD_DIMS))
        raise Invalid(f"head_dim is {size}; without a GPU engines serve only {sizes}", param="model")


def lora_hindrance(rank: int, targets: Sequence[str] | str, settings: LoraLimits) -> tuple[str, str] | None:
    """Why engines take no adapter of this rank and layers, and the field that says so; None where they do."""
    if rank > settings.max_lora_rank:
        return f"rank {rank} is more than the {settings.max_lora_rank} that engines take", "peft.r"
    strange = [] if isinstance(targets, str) else sorted(set(targets) - set(settings.lora_targets))
    if strange:
        names = f"{', '.join(strange)}; engines adapt {', '.join(settings.lora_targets)}"
        return f"target_modules names {names}", "peft.target_modules"
    return None


def head_dim(config: Mapping[str, Any]) -> int:
    """Size of one attention head; Invalid where the config does not say."""
    if config.get("head_dim"):
        return int(config["head_dim"])
    try:
        return int(config["hidden_size"]) // int(config["num_attention_heads"])
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise Invalid("config.json names neither head_dim nor hidden_size and heads", param="model") from error


def context(config: Mapping[str, Any], wanted: int | None) -> int:
    """Tokens an engine takes in one piece: what is wanted, else the model's own up to 4096."""
    own = int(config.get("max_position_embeddings") or DEFAULT_CONTEXT)
    return min(own, LARGEST_CONTEXT) if wanted is None else min(own, wanted)


def kv_cache_bytes(config: Mapping[str, Any], tokens: int) -> int:
    """Memory for eight full sequences of keys and values in float32; CPU engines touch all of it at the start."""
    heads = config.get("num_key_value_heads") or config.get("num_attention_heads", 1)
    per_token = 2 * 4 * int(config.get("num_hidden_layers", 1)) * int(heads) * head_dim(config)
    return max(SMALLEST_KV_CACHE, SEQUENCES_AT_ONCE * tokens * per_token)


def lora_rank_to_reserve(rank: int) -> int:
    """The smallest value vLLM takes that has room for adapters of this rank."""
    fitting = [size for size in LORA_RANKS if size >= rank]
    if not fitting:
        raise Invalid(f"max_lora_rank {rank} is more than vLLM's {LORA_RANKS[-1]}", param="max_lora_rank")
    return fitting[0]
