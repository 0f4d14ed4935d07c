"""What is trained: the policy and the objective's own modules, from a packed row to its losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from trainers.data.examples import WEIGHT
from trainers.layouts import Layout
from trainers.likelihood import Kl, kept_bytes, token_scores
from trainers.means import Metric
from trainers.objectives import Completions, Objective
from trainers.policy import head_of
from trainers.rows import Row

MIB = 2**20
#: the loss in the log: its part that counts examples, and the part that counts tokens
PER_EXAMPLE, PER_TOKEN = "train_loss", "train_loss/tokens"


class Learner(nn.Module):
    """The module that transformers.Trainer and DeepSpeed see; only adapter and objective modules have gradients."""

    def __init__(self, policy: PeftModel, objective: Objective, layout: Layout) -> None:
        super().__init__()
        config = policy.get_base_model().config.get_text_config()
        self.policy = policy
        self.objective = objective
        self.layout = layout
        self.objective_modules = objective.modules(config.num_hidden_layers, config.hidden_size)
        self._vocabulary = config.vocab_size
        self._capped = getattr(config, "final_logit_softcapping", None) is not None
        self.kept_mb = 0.0  #: MiB of logits that the last row keeps for its backward pass

    def forward(self, row: Row, diagnose: bool = False) -> tuple[Tensor, Tensor, Mapping[str, Metric]]:
        """A row of `collate` → weighted losses per example (P,) and per token (or none), and what is logged."""
        batch = self.completions(row, diagnose=diagnose)
        loss = self.objective.loss(batch, self.objective_modules)
        weights = row["columns"][WEIGHT]
        per_example = loss.per_example * weights
        per_token = token_weights = per_example.new_zeros(0)
        if loss.per_token is not None:
            first = row["segment"] < len(weights)
            token_weights = row["weights"][first] * weights[row["segment"][first]]
            per_token = loss.per_token * token_weights
        means = {PER_EXAMPLE: (per_example, weights), PER_TOKEN: (per_token, token_weights)}
        return per_example, per_token, {**loss.metrics, **means, "memory/head_mb": weights.new_tensor([self.kept_mb])}

    def completions(self, row: Row, *, diagnose: bool = False) -> Completions:
        """The per-token vectors that the objective declares it needs; with `diagnose` also what is only logged."""
        needs = self.objective.needs()
        kl: Kl = "metric" if needs.kl == "none" and needs.reference and diagnose else needs.kl
        base = self.policy.get_base_model()
        reference = self._reference(row)
        last = self.layout.states(base.base_model, row)[0][row["positions"]]
        size = kept_bytes(self._vocabulary, last.element_size(), kl=kl, capped=self._capped)
        rows = int(self.objective.head_memory_mb * MIB / size)
        head, targets, most = head_of(base), row["targets"], row["most"]
        ref_last = None if reference is None else reference[0]
        accuracy = needs.accuracy and diagnose
        scores = token_scores(head, last, ref_last, targets, kl=kl, rows=rows, most=most, accuracy=accuracy)
        self.kept_mb = scores.kept * size / MIB
        blocks = reference[1:] if needs.ref_states and reference is not None else None
        vectors = (scores.logp, scores.ref_logp, row["segment"], row["count"], scores.kl, blocks)
        return Completions(*vectors, row["weights"], scores.correct, row["columns"])

    def _reference(self, row: Row) -> Tensor | None:
        if not self.objective.needs().reference:
            return None
        return row["reference"] if "reference" in row else self.reference_states(row)

    @torch.no_grad()
    def reference_states(self, row: Row) -> Tensor:
        """(B, N, d): the reference's last states at the row's scored tokens and, where declared, each block's."""
        every_block = self.objective.needs().ref_states
        with self.policy.disable_adapter():
            states = self.layout.states(self.policy.get_base_model().base_model, row, every_block=every_block)
        return torch.stack([state[row["positions"]] for state in states])

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in nn.Module, but frozen weights may be missing: checkpoints hold only what is trained."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        missing = trained.intersection(found.missing_keys)
        if strict and (missing or found.unexpected_keys):
            raise RuntimeError(f"the checkpoint does not fit: missing {missing}, unknown {found.unexpected_keys}")
        return found
