"""Pairs to token ids as the model sees them when it is served: the prompt once, both answers after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import torch

from trainers.data.examples import Example
from trainers.data.examples import pair as of_pair
from trainers.data.records import BadLine, Message, Pair
from trainers.errors import Unusable

#: texts that end cleanly in most vocabularies: what follows them is tokenised as inside a text
ANCHORS = ("\n", ".", "a", " ")


@dataclass(frozen=True)
class Examples:
    """What is trained on, and how many lines were left out for which reason."""

    rows: list[Example]
    dropped: Counter[str] = field(default_factory=Counter)

    def describe(self) -> str:
        """`228 pairs (3 left out: identical answers)`."""
        why = ", ".join(f"{count} left out: {reason}" for reason, count in sorted(self.dropped.items()))
        return f"{len(self.rows)} pairs" + (f" ({why})" if why else "")


def tokenise(pairs: Iterable[Pair], encoder: Encoder, *, limit: int, param: str = "training_file") -> Examples:
    """All pairs as token ids, those dropped that say nothing (identical answers) or do not fit `limit` tokens.

    Raises BadLine for a line that this model's tokenizer cannot take, Unusable where nothing is left.
    """
    kept = Examples([])
    for pair in pairs:
        row = encoder.encode(pair)
        reason = _unfit(row, limit)
        if row is None or reason is not None:
            kept.dropped[reason or "no clean cut between prompt and answer"] += 1
        else:
            kept.rows.append(row)
    if not kept.rows:
        purpose = "train on" if param == "training_file" else "evaluate on"
        sentence = f"no pair is left to {purpose}: {kept.describe()}"
        raise Unusable(sentence, code="no_usable_pairs", param=param)
    return kept


def _unfit(row: Example | None, limit: int) -> str | None:
    if row is None:
        return None
    chosen, rejected = row.answers
    if torch.equal(chosen.ids, rejected.ids):
        return "identical answers"
    longest = len(row.prompt) + max(len(chosen), len(rejected))
    return f"longer than {limit} tokens" if longest > limit else None


@dataclass(frozen=True)
class Encoder:
    """A tokenizer with the rules of serving around it."""

    tokenizer: Any  #: transformers.PreTrainedTokenizerBase
    vocabulary: int  #: rows of the model's embedding

    def encode(self, pair: Pair) -> Example | None:
        """The pair's ids; None where the tokenizer merges prompt and answer so that no cut is faithful."""
        if isinstance(pair.prompt, str):
            parts = self._plain(pair)
        elif isinstance(pair.prompt[0], int):
            parts = [list(part) for part in (pair.prompt, pair.chosen, pair.rejected)]  # type: ignore[arg-type]
        else:
            parts = self._conversation(pair)
        if parts is None:
            return None
        self._check(pair.line, parts)
        return of_pair(pair.line, *(torch.tensor(part, dtype=torch.int64) for part in parts))

    def text(self, ids: Sequence[int]) -> str:
        """The ids as text, special tokens shown."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each id's own text as it reads after the ones before it."""
        texts = []
        for place in range(len(ids)):
            window = ids[max(0, place - 4) : place]  # four ids hold the longest UTF-8 character
            texts.append(self.text([*window, ids[place]])[len(self.text(window)) if window else 0 :])
        return texts

    def _plain(self, pair: Pair) -> list[list[int]] | None:
        answers = [self._cut(str(pair.prompt), str(answer), special=True) for answer in (pair.chosen, pair.rejected)]
        if answers[0] is None or answers[1] is None:
            return None
        return [self._ids(str(pair.prompt), special=True), *(self._ended(answer) for answer in answers if answer)]

    def _ended(self, answer: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        return answer if end is None or answer[-1] == end else [*answer, end]

    def _conversation(self, pair: Pair) -> list[list[int]] | None:
        messages: list[Message] = list(pair.prompt)  # type: ignore[arg-type]
        prompt = self._render(pair, messages, generate=True)
        cut = []
        for answer in (pair.chosen, pair.rejected):
            whole = self._render(pair, [*messages, *answer], generate=False)
            if not whole.startswith(prompt):
                raise BadLine(pair.line, "the model's chat template renders the prompt differently once it is answered")
            cut.append(self._cut(prompt, whole[len(prompt) :], special=False))
        if cut[0] is None or cut[1] is None:
            return None
        return [self._ids(prompt, special=False), cut[0], cut[1]]

    def _render(self, pair: Pair, messages: list[Message], *, generate: bool) -> str:
        if not self.tokenizer.chat_template:
            raise BadLine(pair.line, "messages need a chat template, and this model's tokenizer has none: send texts")
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tools=pair.tools, tokenize=False, add_generation_prompt=generate
                )
            )
        except jinja2.TemplateError as error:
            raise BadLine(pair.line, f"the model's chat template refuses these messages: {error}") from error

    def _ids(self, text: str, *, special: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def _cut(self, prompt: str, answer: str, *, special: bool) -> list[int] | None:
        """The answer's ids after exactly those ids of the prompt that are sent when it is asked."""
        asked, whole = self._ids(prompt, special=special), self._ids(prompt + answer, special=special)
        if whole[: len(asked)] == asked:
            return whole[len(asked) :] or None
        read = self.text(whole)
        for anchor in ANCHORS:
            # a tokenizer that merges over the boundary, or puts a space before every text
            head, joint = self._ids(anchor, special=False), self._ids(anchor + answer, special=False)
            tail = joint[len(head) :]
            if tail and joint[: len(head)] == head and self.text(asked + tail) == read:
                return tail
        return None

    def _check(self, line: int, parts: list[list[int]]) -> None:
        for name, part in zip(("prompt", "preferred answer", "non-preferred answer"), parts, strict=True):
            if not part:
                raise BadLine(line, f"the {name} has no tokens")
            if max(part) >= self.vocabulary:
                raise BadLine(
                    line, f"the {name} holds token id {max(part)}; the model knows 0 to {self.vocabulary - 1}"
                )
