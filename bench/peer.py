"""TRL's DPOTrainer, as its users run it: without DeepSpeed, which on one CPU only costs it time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import Sampler
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

from bench.side import ALPHA, BETA, CLIP, LOGGING_STEPS, RANK, SEED, Asked, Clock, clocked, draw_adapter


class InOrder(Sampler[int]):
    """The batches one after the other."""

    def __init__(self, indices: list[int]) -> None:
        self._indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)


def train(asked: Asked, clock: Clock) -> None:
    """Train over all steps."""
    order = [index for step in asked.steps for index in step]

    class Recorded(clocked(DPOTrainer)):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> InOrder:
            return InOrder(order)

        def _precompute_ref_logps(self, *args: Any) -> Any:
            started = time.perf_counter()
            dataset = super()._precompute_ref_logps(*args)
            clock.reference_seconds = time.perf_counter() - started
            return dataset

    Recorded.clock = clock
    rows = [json.loads(line) for line in asked.pairs.read_text().splitlines()]
    trainer = Recorded(
        model=str(asked.model),
        args=arguments(asked),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(asked.model),
        peft_config=lora() if asked.peft == "lora" else None,
    )
    draw_adapter(trainer.model)
    trainer.train()


def arguments(asked: Asked) -> DPOConfig:
    """TRL's defaults, but for what the benchmark fixes for all sides and what the side sets."""
    gpu = torch.cuda.is_available()
    return DPOConfig(
        output_dir=str(asked.scratch),
        per_device_train_batch_size=asked.scale.batch,
        num_train_epochs=1,  # the sampler holds all epochs
        learning_rate=asked.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0,
        max_grad_norm=CLIP,
        beta=BETA,
        bf16=asked.scale.dtype == "bfloat16",
        model_init_kwargs={"dtype": asked.scale.dtype},
        logging_steps=LOGGING_STEPS,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not gpu,
        seed=SEED,
        **asked.side.settings,
    )


def lora() -> LoraConfig:
    """The adapter of both sides."""
    return LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
