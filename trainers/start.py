"""The reference: the policy as it was at the start, whatever trains."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from trainers.layouts import Layout
from trainers.policy import Head, base_of, head_of
from trainers.rows import Row

#: what of the start is kept in memory while the policy trains: its states may come from a store, or be asked at
#: every step
Held = Literal["nothing", "head", "model"]


class Start(Protocol):
    """What the learner asks of it."""

    def states(self, layout: Layout, row: Row, *, every_block: bool) -> tuple[Tensor, ...]:
        """The row's (T, d) last states of the reference, after them those after each block where asked for."""

    def head(self) -> nn.Module:
        """Its states (n, d) → logits (n, V)."""

    def begin(self, held: Held) -> int:
        """The policy trains from here on; bytes of frozen weights that are now held beside it for the reference."""


class AdapterOff:
    """The start of an adapter is the policy without it: no second model."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    def states(self, layout: Layout, row: Row, *, every_block: bool) -> tuple[Tensor, ...]:
        """The frozen weights alone."""
        with self._policy.disable_adapter():
            return layout.states(base_of(self._policy).base_model, row, every_block=every_block)

    def head(self) -> nn.Module:
        """The policy's own: no kind of adapter changes it."""
        return head_of(base_of(self._policy))

    def begin(self, held: Held) -> int:  # noqa: ARG002 - the same for all
        """Nothing is copied."""
        return 0


class FrozenStart(nn.Module):
    """The start of a policy that trains whole: the policy itself until it trains, then frozen copies.

    What has trained is never asked: from `begin` on the policy is forgotten here, and where no copy was made the
    start is loaded again.
    """

    def __init__(self, policy: Any, load: Callable[[], Any]) -> None:
        super().__init__()
        self._load = load
        self._start = [policy]  # in a list: a module in it is no part of this one, and no engine's to cut up
        self._head = head_of(policy)
        self.output: nn.Module | None = None
        self.model: nn.Module | None = None

    def states(self, layout: Layout, row: Row, *, every_block: bool) -> tuple[Tensor, ...]:
        """Of the policy before it trains, of a frozen copy after."""
        if self.model is None and not self._start:
            self._start = [self._loaded().to(row["input_ids"].device)]
        model: Any = self.model or self._start[0]
        return layout.states(model.base_model, row, every_block=every_block)

    def head(self) -> nn.Module:
        """With the output layer of the start: the policy's own moves."""
        return self._head

    def begin(self, held: Held) -> int:
        """Copy the output layer, or the whole model."""
        policy = self._start.pop()
        self._attention = policy.config._attn_implementation
        if held == "model":
            self.model = self._loaded()
        elif held == "head":
            self.output = copy.deepcopy(policy.get_output_embeddings()).requires_grad_(False)
            self._head = Head(self.output, policy.config)
        return sum(weight.numel() * weight.element_size() for weight in self.parameters())

    def _loaded(self) -> Any:
        model = self._load()
        model.set_attn_implementation(self._attention)
        if self.output is None:
            self._head = head_of(model)
        return model.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FrozenStart:  # noqa: ARG002
        """A frozen copy never leaves eval mode."""
        return super().train(False)
