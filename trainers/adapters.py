"""LoRA adapters as files, in peft's format; two of them joined into one that does exactly what both did."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainers.errors import Unusable
from trainers.merged import gathered

WEIGHTS = "adapter_model.safetensors"
A, B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Adapter:
    """ΔW = alpha/rank · B A for each adapted layer, A (rank, in), B (out, rank), on the CPU."""

    rank: int
    alpha: int
    layers: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def target_modules(self) -> list[str]:
        """The adapted layers' own names, each once."""
        return sorted({name.rpartition(".")[2] for name in self.layers})

    def is_finite(self) -> bool:
        """Whether every number of it is one."""
        return all(bool(part.isfinite().all()) for pair in self.layers.values() for part in pair)


def trained(policy: PeftModel) -> Adapter:
    """The adapter in training; every rank must call it, for under ZeRO-3 each holds a part."""
    config = policy.peft_config["default"]
    weights = copies((name.replace(".default", ""), weight) for name, weight in policy.named_parameters() if _is(name))
    layers = _layers(weights)
    if not config.use_rslora:
        return Adapter(config.r, config.lora_alpha, layers)
    scale = config.lora_alpha / config.r**0.5  # folded in: engines and `joined` know alpha / rank alone
    return Adapter(config.r, config.r, {name: (a, b * scale) for name, (a, b) in layers.items()})


def copies(named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """Parameters on the CPU, whole; every rank must call it."""
    return {name: weight.cpu().clone() for name, weight in gathered(named)}


def read(folder: Path) -> Adapter:
    """An adapter that an earlier job published; Unusable for kinds that are more than a product of two matrices."""
    config = json.loads((folder / "adapter_config.json").read_text())
    special = [name for name in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern") if config.get(name)]
    if special or config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        sentence = f"the adapter this job goes on from is no plain LoRA ({', '.join(special) or 'another kind'})"
        raise Unusable(sentence, code="adapter_kind", param="model")
    return Adapter(config["r"], config["lora_alpha"], _layers(load_file(folder / WEIGHTS)))


def joined(earlier: Adapter, later: Adapter) -> Adapter:
    """One adapter whose ΔW is the sum of both: A stacked, B side by side with each one's scale folded in.

    A layer that only one of them adapts gets zeros for the other's rank, so that the rank is the same everywhere.
    """
    names = sorted({*earlier.layers, *later.layers})
    layers = {name: _stacked(_part(earlier, later, name), _part(later, earlier, name)) for name in names}
    rank = earlier.rank + later.rank
    return Adapter(rank, rank, layers)


def write(adapter: Adapter, folder: Path, base_model: str) -> None:
    """`adapter_config.json` and the weights, as peft and vLLM load them; the base goes by its public name."""
    folder.mkdir(parents=True)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        target_modules=adapter.target_modules,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_model,
        inference_mode=True,
    )
    config.target_modules = adapter.target_modules  # a set would be written in any order
    config.save_pretrained(str(folder))
    weights = {
        name + end: part for name, pair in adapter.layers.items() for end, part in zip((A, B), pair, strict=True)
    }
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / WEIGHTS, {"format": "pt"})


def _is(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _layers(weights: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    names = sorted(name.removesuffix(A) for name in weights if name.endswith(A))
    return {name: (weights[name + A], weights[name + B]) for name in names}


def _part(adapter: Adapter, other: Adapter, name: str) -> tuple[Tensor, Tensor]:
    """The layer's A and scaled B in float32; zeros of the other's widths where this adapter leaves it alone."""
    if name not in adapter.layers:
        a, b = other.layers[name]
        return torch.zeros(adapter.rank, a.shape[1]), torch.zeros(b.shape[0], adapter.rank)
    a, b = adapter.layers[name]
    return a.float(), b.float() * (adapter.alpha / adapter.rank)


def _stacked(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]], dim=1)
