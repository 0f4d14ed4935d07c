"""What is trained: the policy and the objective's own modules, from a padded micro-batch to one loss per pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from trainers.likelihood import LOGITS_AT_ONCE, Kl, token_scores
from trainers.objectives import Completions, Objective
from trainers.policy import head_of


class Learner(nn.Module):
    """The module that transformers.Trainer and DeepSpeed see; only adapter and objective modules have gradients."""

    def __init__(self, policy: PeftModel, objective: Objective) -> None:
        super().__init__()
        config = policy.get_base_model().config.get_text_config()
        self.policy = policy
        self.objective = objective
        self.objective_modules = objective.modules(config.num_hidden_layers, config.hidden_size)
        self._rows = max(1, LOGITS_AT_ONCE // config.vocab_size)

    def forward(
        self, input_ids: Tensor, positions: Tensor, targets: Tensor, segment: Tensor, log_kl: bool = False
    ) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
        """A batch of `collate` → the objective's losses per pair (P,) and per token (or none), its metrics."""
        batch = self.completions(input_ids, positions, targets, segment, log_kl=log_kl)
        loss = self.objective.loss(batch, self.objective_modules)
        per_token = loss.per_pair.new_zeros(0) if loss.per_token is None else loss.per_token
        return loss.per_pair, per_token, loss.metrics

    def completions(
        self, input_ids: Tensor, positions: Tensor, targets: Tensor, segment: Tensor, *, log_kl: bool = False
    ) -> Completions:
        """The per-token vectors that the objective declares it needs; with `log_kl` the KL in any case."""
        needs = self.objective.needs()
        kl: Kl = "gradient" if needs.kl else "metric" if log_kl else "none"
        ref_last, ref_all = self._reference(input_ids, positions, every_block=needs.ref_states)
        base = self.policy.get_base_model()
        last = base.base_model(input_ids=input_ids, use_cache=False).last_hidden_state.flatten(0, 1)[positions]
        scores = token_scores(head_of(base), last, ref_last, targets, kl=kl, rows=self._rows)
        return Completions(scores.logp, scores.ref_logp, segment, len(input_ids), scores.kl, ref_all)

    @torch.no_grad()
    def _reference(self, input_ids: Tensor, positions: Tensor, *, every_block: bool) -> tuple[Tensor, Tensor | None]:
        """(N, d) last states and, where asked for, the (L, N, d) states after each block."""
        base = self.policy.get_base_model()
        with self.policy.disable_adapter():
            out = base.base_model(input_ids=input_ids, use_cache=False, output_hidden_states=every_block)
        last = out.last_hidden_state.flatten(0, 1)[positions]
        if not every_block:
            return last, None
        return last, torch.stack([state.flatten(0, 1)[positions] for state in out.hidden_states[1:]])

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in nn.Module, but frozen weights may be missing: checkpoints hold only what is trained."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        missing = trained.intersection(found.missing_keys)
        if strict and (missing or found.unexpected_keys):
            raise RuntimeError(f"the checkpoint does not fit: missing {missing}, unknown {found.unexpected_keys}")
        return found
