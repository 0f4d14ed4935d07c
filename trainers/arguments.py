"""Hyperparameters in the words of transformers, DeepSpeed and the optimiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from trainers.objectives import Objective
from trainers.peft_kinds import Full
from trainers.schedule import Schedule
from trainers.spec import JobSpec

SCHEDULERS = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
#: DeepSpeed's buffers, in numbers: as large as what is trained, at most its own default
LARGEST_BUCKET = 500_000_000


def arguments(
    spec: JobSpec, schedule: Schedule, learner: nn.Module, *, out: Path, dtype: torch.dtype, gpu: bool
) -> TrainingArguments:
    """The Trainer's settings; DeepSpeed's follow from them.

    An adapter is float32 whatever it adapts; where all weights train in bf16, DeepSpeed keeps float32 copies of them
    in its optimiser and, under ZeRO, adds gradients up in float32.
    """
    objective = spec.method.objective
    trainable = sum(parameter.numel() for parameter in learner.parameters() if parameter.requires_grad)
    mixed = isinstance(spec.peft, Full) and dtype == torch.bfloat16
    bucket = min(max(trainable, 2**16), LARGEST_BUCKET)
    zero = {"stage": objective.zero_stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    zero |= {"stage3_prefetch_bucket_size": bucket, "stage3_param_persistence_threshold": 100_000}
    auto = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    return TrainingArguments(
        output_dir=str(out),
        deepspeed={"zero_optimization": zero, "zero_allow_untested_optimizer": True}
        | (_mixed(objective.zero_stage) if mixed else {})
        | dict.fromkeys(auto, "auto"),
        bf16=mixed,
        per_device_train_batch_size=objective.micro_batch_size,
        gradient_accumulation_steps=schedule.accumulation,
        num_train_epochs=1,  # the schedule holds all epochs, one after the other
        learning_rate=spec.learning_rate(),
        lr_scheduler_type=SCHEDULERS[objective.lr_scheduler],
        warmup_steps=round(objective.warmup_ratio * schedule.steps),
        max_grad_norm=objective.max_grad_norm,
        logging_steps=objective.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="no",  # `_Conduct` says when
        report_to=[],
        disable_tqdm=True,
        seed=spec.seed,
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        remove_unused_columns=False,
        log_level="error",
    )


def _mixed(stage: int) -> dict[str, Any]:
    """Without ZeRO, DeepSpeed adds bf16 gradients up in bf16 alone."""
    return {"bf16": {"enabled": "auto"}} | ({"data_types": {"grad_accum_dtype": "fp32"}} if stage else {})


def parameter_groups(learner: nn.Module, objective: Objective) -> list[dict[str, Any]]:
    """The learner's trained weights with their decay; biases, norms and other vectors have none."""
    policy: list[nn.Parameter] = []
    weights: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in learner.named_parameters():
        if not parameter.requires_grad:
            continue
        if not name.startswith("objective_modules."):
            (policy if parameter.ndim > 1 else rest).append(parameter)
        elif name.endswith("bias") or ".norm." in name:
            rest.append(parameter)
        else:
            weights.append(parameter)
    groups = [(policy, objective.weight_decay), (weights, objective.modules_weight_decay()), (rest, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]
