"""SparsePO as its equations read: padded batches, every logit of policy and reference, plain PyTorch, nothing saved.

2410.05102: U = Σ m_u (log π − log π_ref), D = Σ m_d KL(π_ref ‖ π), −log σ(β [(U + D)(y_w) − (U + D)(y_l)]), with the
masks' networks of the paper over the reference's states after every block.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

from bench.peer import lora
from bench.side import BETA, CLIP, Asked, Clock, draw_adapter

#: AdamW's on the masks' weights, our default
MASK_DECAY = 0.01


class Mask(nn.Module):
    """m = ReLU(Σ_l q_l ReLU(w_l · LN(h_l) + b_l)), 1 everywhere at the start."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(torch.zeros(layers, width))
        self.bias = nn.Parameter(torch.ones(layers))
        self.mixer = nn.Parameter(torch.full((layers,), 1 / layers))

    def forward(self, states: Tensor) -> Tensor:
        """(L, B, T, d) → (B, T)."""
        heads = torch.einsum("lbtd,ld->lbt", self.norm(states), self.weight) + self.bias[:, None, None]
        return torch.einsum("lbt,l->bt", heads.relu(), self.mixer).relu()


def train(asked: Asked, clock: Clock) -> None:
    """AdamW with the schedule and the clipping of the other sides, on LoRA and masks."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=getattr(torch, asked.scale.dtype))
    policy = get_peft_model(model, lora()).to(device)
    draw_adapter(policy)
    masks = _masks(asked).to(device)
    optimiser = _optimiser(policy, masks, asked.learning_rate)
    schedule = get_linear_schedule_with_warmup(optimiser, 0, len(asked.steps))
    pairs = _tokens(asked)
    trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    clock.begin()
    for step in asked.steps:
        loss = loss_of(policy, masks, [pairs[index] for index in step], device)
        clock.add_loss(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, CLIP)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        clock.end_step()


def _masks(asked: Asked) -> nn.ModuleList:
    count = {"ones": 0, "learned_common": 1, "learned_independent": 2}[asked.side.settings["mask"]]
    return nn.ModuleList(Mask(asked.scale.num_hidden_layers, asked.scale.hidden_size) for _ in range(count))


def _optimiser(policy: nn.Module, masks: nn.ModuleList, rate: float) -> torch.optim.AdamW:
    decayed = [p for name, p in masks.named_parameters() if not (name.endswith("bias") or ".norm." in name)]
    rest = [p for name, p in masks.named_parameters() if name.endswith("bias") or ".norm." in name]
    groups = [([p for p in policy.parameters() if p.requires_grad], 0.0), (decayed, MASK_DECAY), (rest, 0.0)]
    return torch.optim.AdamW([{"params": p, "weight_decay": decay} for p, decay in groups if p], lr=rate)


def _tokens(asked: Asked) -> list[tuple[list[int], list[int], list[int]]]:
    encode = AutoTokenizer.from_pretrained(asked.model)
    rows = [json.loads(line) for line in asked.pairs.read_text().splitlines()]
    texts = [(row["prompt"], row["chosen"] + "</s>", row["rejected"] + "</s>") for row in rows]
    return [tuple(encode(part)["input_ids"] for part in row) for row in texts]


def loss_of(policy: Any, masks: nn.ModuleList, batch: list[Any], device: torch.device) -> Tensor:
    """Mean over the batch's pairs, all chosen answers before all rejected ones."""
    sequences = [torch.tensor(prompt + row[side]) for side in (0, 1) for prompt, *row in batch]
    ids = pad_sequence(sequences, batch_first=True).to(device)
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=device)[:, None]
    prompts = torch.tensor([len(prompt) for prompt, *_ in batch] * 2, device=device)[:, None]
    place = torch.arange(ids.shape[1], device=device)
    answers = ((place >= prompts) & (place < lengths))[:, 1:]
    with torch.no_grad(), policy.disable_adapter():
        out = policy(ids, attention_mask=place < lengths, output_hidden_states=True, use_cache=False)
        log_ref = out.logits[:, :-1].float().log_softmax(-1)
        states = torch.stack(out.hidden_states[1:])[:, :, :-1].float()
    logits = policy(ids, attention_mask=place < lengths, use_cache=False).logits
    log_pi = logits[:, :-1].float().log_softmax(-1)
    rho = (log_pi - log_ref).gather(2, ids[:, 1:, None])[:, :, 0]
    kl = (log_ref.exp() * (log_ref - log_pi)).sum(-1)
    weights = [mask(states) for mask in masks] or [torch.ones_like(rho)]
    rewards = BETA * ((weights[0] * rho + weights[-1] * kl) * answers).sum(1)
    chosen, rejected = rewards.chunk(2)
    return -logsigmoid(chosen - rejected).mean()
