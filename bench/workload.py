"""The model, the pairs and the order of the batches: made once on disk, read by every side."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from bench.cells import Lengths, Order

#: means of prompt, chosen and rejected answer, in tokens
MEANS: dict[Lengths, tuple[int, int, int]] = {"short": (60, 140, 120), "long": (350, 220, 200)}
#: σ of the lengths' logarithms
SPREAD = 0.5
LONGEST = 1024
END, FIRST_WORD = 1, 2


@dataclass(frozen=True)
class Scale:
    """A random Llama, and how much it is trained."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    pairs: int = 16
    batch: int = 8
    epochs: int = 3
    dtype: str = "float32"

    @property
    def backbone(self) -> int:
        """Weights of the blocks' linear layers."""
        narrow = self.hidden_size * self.num_key_value_heads // self.num_attention_heads
        attention = 2 * self.hidden_size * (self.hidden_size + narrow)
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)


#: 15.2M parameters, 9.2M of them the tied embedding
USUAL = Scale(288, 768, 6, 6, 6, 32_000)
#: 1.9M parameters
QUICK = Scale(160, 432, 4, 5, 5, 4_096, pairs=8, batch=4, epochs=1)
#: 1.2B parameters, for an accelerator
LARGE = Scale(2048, 8192, 16, 32, 8, 128_256, pairs=64, dtype="bfloat16")


@dataclass(frozen=True)
class Pair:
    """Token ids; both answers end with the end token."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Of prompt, chosen and rejected."""
        return len(self.prompt), len(self.chosen), len(self.rejected)

    @property
    def longer(self) -> int:
        """Tokens of the longer of its two sequences."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def draw_pairs(scale: Scale, lengths: Lengths, seed: int = 0) -> list[Pair]:
    """Log-normal lengths with the means of `lengths`, no pair over LONGEST; words at random."""
    rng = random.Random(f"{seed}/{lengths}")  # noqa: S311 - lengths, not a secret
    columns = [_sizes(mean, scale.pairs) for mean in MEANS[lengths]]
    pairs: list[Pair] = []
    while not pairs or max(pair.longer for pair in pairs) > LONGEST:
        for column in columns:
            rng.shuffle(column)
        drawn = [
            [rng.randrange(FIRST_WORD, scale.vocab_size) for _ in range(sum(sizes))]
            for sizes in zip(*columns, strict=True)
        ]
        pairs = [_pair(ids, *sizes) for ids, sizes in zip(drawn, zip(*columns, strict=True), strict=True)]
    return pairs


def _sizes(mean: float, count: int) -> list[int]:
    """The log-normal distribution's quantiles, within two σ: a small sample that is like a large one."""
    normal = NormalDist()
    low, high = normal.cdf(-2), normal.cdf(2)
    places = [normal.inv_cdf(low + (high - low) * (place + 0.5) / count) for place in range(count)]
    return [max(2, round(mean * math.exp(SPREAD * place - SPREAD**2 / 2))) for place in places]


def _pair(ids: Sequence[int], prompt: int, chosen: int, rejected: int) -> Pair:
    first, second = ids[prompt : prompt + chosen - 1], ids[prompt + chosen : prompt + chosen + rejected - 1]
    return Pair(tuple(ids[:prompt]), (*first, END), (*second, END))


def batches(pairs: Sequence[Pair], scale: Scale, order: Order, seed: int = 0) -> list[list[int]]:
    """The pairs of every step: one to warm up, then all epochs. `grouped` sorts by length, as TRL's grouping
    would within one of its megabatches, and shuffles the batches."""
    rng = random.Random(seed)  # noqa: S311
    steps: list[list[int]] = []
    for _ in range(scale.epochs):
        shuffled = rng.sample(range(len(pairs)), len(pairs))
        if order == "grouped":
            shuffled.sort(key=lambda index: pairs[index].longer)
        cut = [shuffled[start : start + scale.batch] for start in range(0, len(pairs), scale.batch)]
        rng.shuffle(cut)
        steps += cut
    return [steps[0], *steps]


def padding(pairs: Sequence[Pair], steps: Sequence[Sequence[int]]) -> float:
    """Tokens of padded batches of both sequences of each pair, over those that are no padding."""
    padded = sum(2 * len(step) * max(pairs[index].longer for index in step) for step in steps)
    real = sum(2 * len(pairs[i].prompt) + len(pairs[i].chosen) + len(pairs[i].rejected) for s in steps for i in s)
    return padded / real


def words(ids: Sequence[int]) -> str:
    """A text that `tokenizer` turns into these ids; the end token is left to the trainers, who both add it."""
    return "".join(f" w{one}" for one in ids if one != END)


def write(folder: Path, scale: Scale) -> None:
    """Model, tokenizer, `short.jsonl` and `long.jsonl`; what is there already is left alone."""
    if (folder / "scale.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for lengths in MEANS:
        pairs = draw_pairs(scale, lengths)
        rows = [{name: words(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")} for pair in pairs]
        (folder / f"{lengths}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        answered = [_messages(row["prompt"], row["chosen"]) for row in rows]
        (folder / f"{lengths}-answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answered))
    _write_model(folder / "model", scale)
    (folder / "scale.json").write_text(json.dumps(asdict(scale)))


def _messages(prompt: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def _write_model(folder: Path, scale: Scale) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    own = {"pairs", "batch", "epochs", "dtype"}
    shape = {name: value for name, value in asdict(scale).items() if name not in own}
    config = LlamaConfig(
        **shape,
        max_position_embeddings=LONGEST,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=0,
        tie_word_embeddings=True,
        dtype=scale.dtype,
    )
    LlamaForCausalLM(config).to(getattr(torch, scale.dtype)).save_pretrained(folder)
    tokenizer(scale.vocab_size).save_pretrained(folder)


def tokenizer(vocabulary: int) -> Any:
    """Words `w2`, `w3`, … with their numbers as ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {"<pad>": 0, "</s>": END} | {f"w{one}": one for one in range(FIRST_WORD, vocabulary)}
    inner = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))  # noqa: S106 - a word
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        chat_template=template,
    )
