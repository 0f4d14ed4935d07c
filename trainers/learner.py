"""What is trained: the policy and the objective's own modules, from a packed row to its losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from trainers.activations import activation_mask, recording
from trainers.closed_form import expected_embedding, shared_advantage
from trainers.data.examples import WEIGHT
from trainers.drift import SAMPLED
from trainers.layouts import Layout
from trainers.likelihood import Kl, kept_bytes, reduced, token_scores
from trainers.means import Metric
from trainers.objectives import Completions, Objective
from trainers.policy import base_of, head_of
from trainers.reference import Reference
from trainers.rows import Row, Scored, only
from trainers.start import AdapterOff, Start

MIB = 2**20
ALL: Final = "all"
Sample = int | Literal["all"] | None
#: the loss in the log: its part that counts examples, and the part that counts tokens
PER_EXAMPLE, PER_TOKEN = "train_loss", "train_loss/tokens"


class Learner(nn.Module):
    """The module that transformers.Trainer and DeepSpeed see; what trains of policy and objective has gradients."""

    def __init__(self, policy: Any, objective: Objective, layout: Layout, start: Start | None = None) -> None:
        super().__init__()
        config = base_of(policy).config.get_text_config()
        self.policy = policy
        self.start = start or AdapterOff(policy)
        self.objective = objective
        self.layout = layout
        self.objective_modules = objective.modules(config.num_hidden_layers, config.hidden_size)
        self._vocabulary = config.vocab_size
        self._capped = getattr(config, "final_logit_softcapping", None) is not None
        self.kept_mb = 0.0  #: MiB of logits that the last row keeps for its backward pass

    def forward(self, row: Row, sample: Sample = None) -> tuple[Tensor, Tensor, Mapping[str, Metric]]:
        """A row of `collate` → weighted losses per example (P,) and per token (or none), and what is logged.

        `sample` picks the example on which the objective's diagnostics are taken, by any number, or all of them.
        """
        reference = self._reference(row)
        states = self._states(row)
        batch = self._score(row, states, reference)
        loss = self.objective.loss(batch, self.objective_modules)
        weights = row["columns"][WEIGHT]
        per_example = loss.per_example * weights
        per_token = token_weights = per_example.new_zeros(0)
        if loss.per_token is not None:
            first = row["segment"] < len(weights)
            token_weights = row["weights"][first] * weights[row["segment"][first]]
            per_token = loss.per_token * token_weights
        metrics: dict[str, Metric] = dict(loss.metrics)
        if sample is not None:
            found, prefix = self._diagnostics(row, states, reference, sample), "" if sample == ALL else SAMPLED
            metrics |= {f"{prefix}{name}": metric for name, metric in found.items() if name not in metrics}
        means = {PER_EXAMPLE: (per_example, weights), PER_TOKEN: (per_token, token_weights)}
        return per_example, per_token, metrics | means | {"memory/head_mb": weights.new_tensor([self.kept_mb])}

    def completions(self, row: Row) -> Completions:
        """All that can be known of a row's tokens, the KL also where the objective needs none."""
        return self._score(row, self._states(row), self._reference(row), everything=True)

    @torch.no_grad()
    def reference(self, row: Row) -> Reference:
        """What the frozen model says of a row's tokens, and what the objective declares it needs of it."""
        needs, places = self.objective.needs(), row["positions"]
        with self.start.model(places.device) as model, recording(model, needs.activations, places) as heard:
            passed = self.layout.states(model, row, every_block=needs.ref_states)
        states = [state[places] for state in passed]
        head, rows, most = self.start.head(), self._rows("none"), row["most"]
        if "logits" in needs.activations:
            heard.add("logits", reduced(head, states[0], lambda logits: logits.mean(-1), rows=rows, most=most))
        scores = token_scores(head, states[0], None, row["targets"], kl="none", rows=rows, most=most)
        if self.closed:
            states.append(expected_embedding(head, states[0], rows=rows))
        mask = activation_mask(heard.levels(), row["segment"], row["count"]) if needs.activations else None
        return Reference(scores.logp, torch.stack(states), mask)

    @property
    def closed(self) -> bool:
        """Whether ρ_t + K_t can be had without logits: a frozen, uncapped output layer that lies in one place."""
        weight = base_of(self.policy).get_output_embeddings().weight
        free = not self._capped and not weight.requires_grad and self.objective.zero_stage != 3
        return free and self.objective.needs().advantage

    @torch.no_grad()
    def _diagnostics(
        self, row: Row, states: Tensor, reference: Reference | None, sample: Sample
    ) -> Mapping[str, Metric]:
        part: Scored = row
        if isinstance(sample, int):
            places, part = only(row, sample % len(row["columns"][WEIGHT]))
            states, reference = states[places], None if reference is None else reference.at(places)
        kept_mb = self.kept_mb
        found = self.objective.diagnostics(self._score(part, states.detach(), reference, everything=True))
        self.kept_mb = kept_mb
        return found

    def _states(self, row: Row) -> Tensor:
        model = base_of(self.policy).base_model
        return self.layout.states(model, row)[0][row["positions"]]

    def _reference(self, row: Row) -> Reference | None:
        if not self.objective.needs().reference:
            return None
        return row["reference"] if "reference" in row else self.reference(row)

    def _rows(self, kl: Kl) -> int:
        """How many tokens' logits fit the budget."""
        return int(self.objective.head_memory_mb * MIB / self._bytes(kl))

    def _bytes(self, kl: Kl) -> int:
        return kept_bytes(self._vocabulary, base_of(self.policy).dtype.itemsize, kl=kl, capped=self._capped)

    def _score(
        self, part: Scored, states: Tensor, reference: Reference | None, *, everything: bool = False
    ) -> Completions:
        needs = self.objective.needs()
        shared: dict[str, Any] = {name: part[name] for name in ("segment", "count", "weights", "columns")}
        head = head_of(base_of(self.policy))
        if reference is not None:
            blocks = reference.states[1 : len(reference.states) - self.closed] if needs.ref_states else None
            shared |= {"ref_states": blocks, "activation": reference.mask}
            if self.closed and not everything:
                self.kept_mb = 0.0
                advantage = shared_advantage(head, part["targets"], states, reference.states)
                return Completions(advantage.new_zeros(0), None, advantage=advantage, **shared)
        kl: Kl = "metric" if everything and needs.kl == "none" and reference is not None else needs.kl
        heads, ref_states = (head, self.start.head()), None if reference is None else reference.states[0]
        given: tuple[Any, ...] = (heads, states, ref_states, part["targets"])
        settings: dict[str, Any] = {"most": part["most"], "rows": self._rows(kl)}
        scores = token_scores(*given, kl=kl, accuracy=everything and needs.accuracy, **settings)
        self.kept_mb = scores.kept * self._bytes(kl) / MIB
        if reference is None:
            return Completions(scores.logp, None, correct=scores.correct, **shared)
        if everything:
            with torch.no_grad():
                shared["reverse_kl"] = token_scores(*given, kl="policy_to_reference", **settings).kl
        ref_logp = reference.logp.to(scores.logp.dtype)
        return Completions(scores.logp, ref_logp, kl=scores.kl, correct=scores.correct, **shared)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in nn.Module, but frozen weights may be missing: checkpoints hold only what is trained."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        missing = trained.intersection(found.missing_keys)
        if strict and (missing or found.unexpected_keys):
            raise RuntimeError(f"the checkpoint does not fit: missing {missing}, unknown {found.unexpected_keys}")
        return found
