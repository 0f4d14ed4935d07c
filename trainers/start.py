"""The reference: the policy as it was at the start, whatever trains."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import nn

from trainers.policy import Head, base_of, head_of

#: what of the start is kept in memory while the policy trains: its states may come from a store, or be asked at
#: every step
Held = Literal["nothing", "head", "model"]


class Start(Protocol):
    """What the learner asks of it."""

    def model(self, device: torch.device) -> AbstractContextManager[Any]:
        """The reference without its head, ready to run."""

    def head(self) -> Head:
        """Its states (n, d) → logits (n, V)."""

    def begin(self, held: Held) -> int:
        """The policy trains from here on; bytes of frozen weights that are now held beside it for the reference."""


class AdapterOff:
    """The start of an adapter is the policy without it: no second model."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    @contextmanager
    def model(self, device: torch.device) -> Iterator[Any]:  # noqa: ARG002 - the policy's
        """The frozen weights alone."""
        with self._policy.disable_adapter():
            yield base_of(self._policy).base_model

    def head(self) -> Head:
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
        self.copy: nn.Module | None = None

    @contextmanager
    def model(self, device: torch.device) -> Iterator[Any]:
        """The policy before it trains, a frozen copy after."""
        if self.copy is None and not self._start:
            self._start = [self._loaded().to(device)]
        start: Any = self.copy or self._start[0]
        yield start.base_model

    def head(self) -> Head:
        """With the output layer of the start: the policy's own moves."""
        return self._head

    def begin(self, held: Held) -> int:
        """Copy the output layer, or the whole model."""
        policy = self._start.pop()
        self._attention = policy.config._attn_implementation
        if held == "model":
            self.copy = self._loaded()
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
