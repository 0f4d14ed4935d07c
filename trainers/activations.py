"""MaPO's masks: how strongly the reference's inside answers to each token (2410.05102, the release's `all` hooks)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainers.errors import Unusable
from trainers.objectives.base import Family

#: (module of a block, is it its output that counts) of each family; the rotated queries and keys are not recorded
BLOCK_TAPS: dict[Family, tuple[tuple[str, bool], ...]] = {
    "mlp": (("mlp.down_proj", False),),
    "attention": tuple((f"self_attn.{name}_proj", name != "o") for name in "qkvo"),
    "residual": (
        ("input_layernorm", True),
        ("self_attn", True),
        ("mlp", True),
        ("", True),
    ),
}
#: the norm before the MLP: its input is the stream after the attention
BEFORE_MLP = ("pre_feedforward_layernorm", "post_attention_layernorm")


class Recorder:
    """The mean over its width of whatever passes each tap, one number for each of the N tokens asked about."""

    def __init__(self, places: Tensor) -> None:
        self._places = places
        self._heard: list[tuple[Family, list[Tensor]]] = []
        self._given: list[tuple[Family, Tensor]] = []

    def tap(self, family: Family) -> Callable[[Any], None]:
        """A new place to listen at; it takes (1, T, width) tensors, call after call."""
        heard: list[Tensor] = []
        self._heard.append((family, heard))

        def hear(value: Any) -> None:
            tensor: Tensor = value[0] if isinstance(value, tuple) else value
            heard.append(tensor.to(torch.promote_types(tensor.dtype, torch.float32)).mean(-1).flatten())

        return hear

    def add(self, family: Family, level: Tensor) -> None:
        """A level that is not heard at a module: (N,)."""
        self._given.append((family, level))

    def levels(self) -> dict[Family, Tensor]:
        """(taps, N) for each family."""
        families: dict[Family, list[Tensor]] = {}
        found = [(family, torch.cat(heard)[self._places]) for family, heard in self._heard]
        for family, level in found + self._given:
            families.setdefault(family, []).append(level)
        return {family: torch.stack(taps) for family, taps in families.items()}


@contextmanager
def recording(model: Any, families: Sequence[Family], places: Tensor) -> Iterator[Recorder]:
    """Listen to the blocks of a causal language model (without its head) at `places` of its row, while it runs.

    Raises Unusable for a family whose modules this architecture does not have by these names.
    """
    recorder = Recorder(places)
    handles = []
    for family in (family for family in families if family != "logits"):
        found = [tap for block in model.layers for tap in _taps(block, family)]
        if not found:
            sentence = (
                f"mask `mapo` finds no {family} activations in this architecture; mapo_families can leave them out"
            )
            raise Unusable(sentence, code="no_such_layer", param="method.sparsepo.hyperparameters.mapo_families")
        if family == "residual":
            found += [(model.embed_tokens, True), (model.norm, True)]
        handles += [_listen(module, recorder.tap(family), output=output) for module, output in found]
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def _taps(block: nn.Module, family: Family) -> Iterator[tuple[nn.Module, bool]]:
    names = {name for name, _ in block.named_modules()}
    wanted = list(BLOCK_TAPS[family])
    if family == "residual":
        before = next((name for name in BEFORE_MLP if name in names), None)
        wanted += [(before, False), (before, True)] if before else []
    for name, output in wanted:
        if name in names:
            yield block.get_submodule(name), output


def _listen(module: nn.Module, hear: Callable[[Any], None], *, output: bool) -> Any:
    if output:
        return module.register_forward_hook(lambda _module, _given, made: hear(made))
    return module.register_forward_pre_hook(lambda _module, given: hear(given[0]))


@torch.no_grad()
def activation_mask(levels: dict[Family, Tensor], segment: Tensor, count: int) -> Tensor:
    """(taps, N) of each family → (N,) mask in [0, 1]: every tap scaled within its answer, then means of means.

    Each tap's level is scaled over the tokens of each of the `count` completions, the lowest to 0 and the highest to 1.
    Where a completion's tokens do not differ (it may have one only) they count fully. The z-norm of the release is
    left out: scaling undoes it.
    """
    return torch.stack([_scaled(level, segment, count).mean(0) for level in levels.values()]).mean(0)


def _scaled(level: Tensor, segment: Tensor, count: int) -> Tensor:
    places = segment.expand_as(level)
    low, high = (
        level.new_zeros(len(level), count).scatter_reduce(1, places, level, reduce, include_self=False)
        for reduce in ("amin", "amax")
    )
    low, spread = low.gather(1, places), (high - low).gather(1, places)
    return torch.where(spread > 0, (level - low) / spread, 1.0)
