"""A tokenizer with the rules of serving around it: what a prompt's ids are, and which ids an answer adds to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import jinja2

from trainers.data.fields import Message
from trainers.data.lines import BadLine

#: texts that end cleanly in most vocabularies: what follows them is tokenised as inside a text
ANCHORS = ("\n", ".", "a", " ")
#: stands for a content while its place in a rendering is looked for
STAND_IN = "\ue0ff\ue0fe\ue0ff"


@dataclass(frozen=True)
class Tokens:
    """n ids and, where asked for, the characters [start, end) of the text that each stands for, without gaps."""

    ids: list[int]
    places: list[tuple[int, int]] | None  #: None where the tokenizer cannot tell

    def after(self, count: int, characters: int) -> Tokens:
        """What follows the first tokens, its places counted from a character of the text."""
        places = self.places and [(max(a - characters, 0), max(b - characters, 0)) for a, b in self.places[count:]]
        return Tokens(self.ids[count:], places)

    def first(self, count: int) -> Tokens:
        """The first tokens."""
        return Tokens(self.ids[:count], self.places and self.places[:count])


@dataclass(frozen=True)
class Encoder:
    """A tokenizer with the model it belongs to."""

    tokenizer: Any  #: transformers.PreTrainedTokenizerBase
    vocabulary: int  #: rows of the model's embedding
    stops: frozenset[int] = frozenset()  #: ids that end a generation, beside the tokenizer's own

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

    def tokens(self, text: str, *, special: bool, places: bool = False) -> Tokens:
        """The text's ids; `special` puts a beginning token before it where the tokenizer has that habit, once."""
        told = places and self.tokenizer.is_fast
        found = self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=told)
        tokens = Tokens(list(found["input_ids"]), _without_gaps(found["offset_mapping"]) if told else None)
        start = self.tokenizer.bos_token_id
        twice = special and start is not None and tokens.ids[:2] == [start, start]
        return tokens.after(1, 0) if twice else tokens

    def after(self, asked: list[int], prompt: str, answer: str, *, special: bool, places: bool) -> Tokens | None:
        """The answer behind exactly those ids of the prompt that are sent when it is asked.

        None where the tokenizer merges the two so that no cut is faithful.
        """
        whole = self.tokens(prompt + answer, special=special, places=places)
        if whole.ids[: len(asked)] == asked:
            return whole.after(len(asked), len(prompt))
        read = self.text(whole.ids)
        for anchor in ANCHORS:
            # a tokenizer that merges over the boundary, or puts a space before every text
            head = self.tokens(anchor, special=False).ids
            joint = self.tokens(anchor + answer, special=False, places=places)
            tail = joint.after(len(head), len(anchor))
            if tail.ids and joint.ids[: len(head)] == head and self.text(asked + tail.ids) == read:
                return tail
        return None

    def render(self, line: int, messages: Sequence[Message], tools: Sequence[Message] | None, *, generate: bool) -> str:
        """The messages through the chat template, as text; BadLine where there is none or it refuses them."""
        if not self.tokenizer.chat_template:
            raise BadLine(line, "messages need a chat template, and this model's tokenizer has none: send texts")
        try:
            given = {"tools": tools and list(tools), "tokenize": False, "add_generation_prompt": generate}
            return str(self.tokenizer.apply_chat_template(list(messages), **given))
        except (jinja2.TemplateError, TypeError) as error:
            raise BadLine(line, f"the model's chat template refuses these messages: {error}") from error

    def ended(self, text: Tokens) -> Tokens:
        """The text with the end token behind it, once; it stands for no character."""
        end = self.tokenizer.eos_token_id
        if end is None or text.ids[-1:] == [end]:
            return text
        last = text.places[-1][1] if text.places else 0
        return Tokens([*text.ids, end], None if text.places is None else [*text.places, (last, last)])

    def produced(self, turn: Tokens) -> Tokens:
        """Of an answer as the template renders it, the tokens that the model itself must produce.

        They end with the first id that stops a generation; without one with an added token that only white space
        follows; without that, all is the model's.
        """
        stop = next((place for place, one in enumerate(turn.ids) if one in self._stops), None)
        if stop is None:
            added = [place for place, one in enumerate(turn.ids) if one in self._added]
            stop = added[-1] if added and not self.text(turn.ids[added[-1] + 1 :]).strip() else len(turn.ids) - 1
        return turn.first(stop + 1)

    def stops_after(self, ids: Sequence[int]) -> bool:
        """Whether the ids end with one that stops a generation, as far as that is known."""
        return ids[-1] in self._stops or ids[-1] in self._added

    def misread(self, ids: Sequence[int], text: str, contents: Sequence[str]) -> str | None:
        """The first place where a content reads back differently from its ids: `'Ä' as 'a'`; None where all do.

        Only white space at a content's beginning may differ: some tokenizers write one there, or take it away.
        """
        if self.text(ids) == text:
            return None
        for content in contents:
            read = self.text(self.tokens(content, special=False).ids)
            if (found := _difference(content.lstrip(), read.lstrip())) is not None:
                return found
        return None

    @cached_property
    def _stops(self) -> frozenset[int]:
        own = self.tokenizer.eos_token_id
        return self.stops if own is None else self.stops | {own}

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(self.tokenizer.get_added_vocab().values())


def _without_gaps(offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """A token also stands for the characters before it that no token claims: tokenizers leave out spaces.

    Tokens that share a character (its bytes) each stand for all of it.
    """
    ends = [0]
    for _, end in offsets:
        ends.append(max(ends[-1], end))
    return [(min(start, before), end) for (start, _), (before, end) in zip(offsets, pairwise(ends), strict=True)]


def _difference(wrote: str, reads: str) -> str | None:
    if wrote == reads:
        return None
    both = zip(wrote, reads, strict=False)
    same = next((place for place, (a, b) in enumerate(both) if a != b), min(len(wrote), len(reads)))
    return f"{wrote[same : same + 12]!r} as {reads[same : same + 12]!r}"
