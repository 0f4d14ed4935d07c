"""Trained weights as one model folder, for all that is no plain adapter: safetensors, config, tokenizer, template."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.utils import logging

from trainers.policy import load_policy
from trainers.spec import Assignment

#: what is copied from the model that was started from: all that is data and no weight
DESCRIPTIONS = (".json", ".jinja", ".txt", ".model")
WEIGHT_INDEX = ".safetensors.index.json"
SHARD = "5GB"


@dataclass(frozen=True)
class Merged:
    """What has trained, on the CPU of the first rank (others hold nothing), and the model whose names it bears."""

    policy: Any
    state: Mapping[str, Tensor]
    finite: bool

    @classmethod
    def of(cls, policy: Any, *, keep: bool) -> Merged:
        """A copy; every rank must call it, for under ZeRO-3 each holds a part."""
        trained = [(name, weight) for name, weight in policy.named_parameters() if weight.requires_grad]
        state, finite = {}, True
        for name, weight in gathered(trained):
            finite &= bool(weight.isfinite().all())
            if keep:
                state[name] = weight.cpu().clone()
        return cls(policy, state, finite)

    def is_finite(self) -> bool:
        """Whether every number of it is one; the same on all ranks."""
        return self.finite

    def write(self, folder: Path, assignment: Assignment) -> None:
        """A folder that transformers and vLLM load, in the precision of the model that was started from."""
        dtype = AutoConfig.from_pretrained(assignment.model_path, local_files_only=True).dtype or torch.float32
        model, state = self._whole(assignment)
        state = {name: weight.to(dtype) if weight.is_floating_point() else weight for name, weight in state.items()}
        logging.disable_progress_bar()  # the worker's log is read by people
        model.save_pretrained(folder, state_dict=state, max_shard_size=SHARD)
        for path in assignment.model_path.iterdir():
            if path.suffix in DESCRIPTIONS and not path.name.endswith(WEIGHT_INDEX):
                shutil.copyfile(path, folder / path.name)

    def _whole(self, assignment: Assignment) -> tuple[Any, dict[str, Tensor]]:
        """A model and all of its weights by name. An adapter is merged in float32, so that they are rounded once."""
        if not isinstance(self.policy, PeftModel):
            buffers = {name for name, _ in self.policy.named_buffers()}
            kept = {name: value for name, value in self.policy.state_dict().items() if name in buffers}
            return self.policy, {**kept, **self.state}
        with torch.random.fork_rng(), torch.no_grad():  # a checkpoint must not move the run's random numbers
            fresh = load_policy(assignment, torch.float32)
            for name, weight in fresh.named_parameters():
                if name in self.state:
                    weight.copy_(self.state[name])
            model = fresh.merge_and_unload()
        return model, model.state_dict()


def gathered(named: Iterable[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
    """Each parameter whole, one after the other: gathered from the ranks where ZeRO-3 has cut it up."""
    for name, parameter in named:
        with _whole(parameter):
            yield name, parameter.detach()


def _whole(parameter: nn.Parameter) -> contextlib.AbstractContextManager[Any]:
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed  # only where it already runs

    gathering: contextlib.AbstractContextManager[Any] = deepspeed.zero.GatheredParameters([parameter])
    return gathering
