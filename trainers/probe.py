"""Which layout an architecture takes: read from its config, confirmed on the loaded model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainers.data.examples import Example, pair
from trainers.layouts import Layout, LinearLayout, TreeLayout
from trainers.rows import ATTENTION, on

#: largest ‖tree − separate‖ / ‖separate‖ of the probe's states; two attentions that differ are far above
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
#: rotary embeddings that depend on the longest position in the row: a neighbour would move them
LENGTH_DEPENDENT = {"dynamic", "longrope"}


@dataclass(frozen=True)
class Chosen:
    """A layout and the reason for it, as half a sentence."""

    layout: Layout
    why: str

    def describe(self) -> str:
        """`linear rows (its layers are conv, full_attention)`."""
        return f"{self.layout.name} rows ({self.why})"


def choose(model: Any) -> Chosen:
    """The layout for a loaded causal language model; one that takes trees attends by `rows.ATTENTION` from here on."""
    config = model.config.get_text_config()
    why = _not_plain(config) or ("it carries a state" if getattr(model, "_is_stateful", False) else None)
    if why is None:
        before = config._attn_implementation
        why = _differs(model)
        if why is None:
            return Chosen(TreeLayout(), "prompts once, the probe agrees with separate sequences")
        if config._attn_implementation != before:
            model.set_attn_implementation(before)
    return Chosen(LinearLayout(), why)


def _not_plain(config: Any) -> str | None:
    """Why the config rules trees out: layers that are not all full attention over the past."""
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention"}:
        return f"its layers are {', '.join(sorted(kinds))}"
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if windowed and not kinds:
        return f"its attention sees a window of {config.sliding_window} tokens"
    if getattr(config, "attn_logit_softcapping", None):
        return "its attention scores are capped"
    rotary = _rotary_kinds(getattr(config, "rope_parameters", None) or {})
    if rotary & LENGTH_DEPENDENT:
        return "its rotary embedding depends on the length"
    return None


def _rotary_kinds(parameters: dict[str, Any]) -> set[str]:
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return {str(one.get("rope_type")) for one in (parameters, *nested)}


@torch.no_grad()
def _differs(model: Any) -> str | None:
    """Run a few tokens as separate sequences and as trees; why the two are not the same, None where they are."""
    examples = _few_tokens(model)
    expected = _read(LinearLayout(), model, examples)
    try:
        model.set_attn_implementation(ATTENTION)
        if model.config.get_text_config()._attn_implementation != ATTENTION:
            return "its attention cannot be replaced"
        found = _read(TreeLayout(), model, examples)
    except (TypeError, ValueError) as error:  # an architecture that takes no attention of ours, or no trees
        return f"it does not run as trees: {str(error).splitlines()[0][:120]}"
    scale = expected.norm().clamp_min(torch.finfo(torch.float32).tiny)
    apart = float((found - expected).norm() / scale)
    if apart > TOLERANCE[model.dtype]:
        return f"the probe's trees are {apart:.1g} away from separate sequences"
    return None


def _few_tokens(model: Any) -> list[Example]:
    """Two pairs of prompts and answers of different lengths, with ids from all over the vocabulary."""
    draw = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    lengths = ((5, 4, 6), (3, 7, 2))
    return [pair(0, *(torch.randint(vocabulary, (size,), generator=draw) for size in one)) for one in lengths]


def _read(layout: Layout, model: Any, examples: list[Example]) -> Tensor:
    row = on(model.device, layout.collate(examples))
    [last] = layout.states(model.base_model, row)
    return last[row["positions"]].float()
