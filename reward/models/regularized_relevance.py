"""R³, the regularised relevance reward: relevance, length and repetition, no preferences needed (2402.03469)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from reward.errors import Broken
from reward.inputs import AnyInput, Conversation
from reward.models.base import Reward, Run, Worth, refuse_aggregation, texts_of
from reward.remote import asked
from reward.words import distinct_share, words, words_and_marks

#: where an answer is cut: it has gone on to speak for others, or drawn a line
ENDS = re.compile(
    r"\n{4}|\n[ \t]*(?:human|user|assistant|system)[ \t]*:|^[ \t]*[-=_*#]{5,}[ \t]*$", re.IGNORECASE | re.MULTILINE
)


class RegularizedRelevance(Reward):
    """Open question: R = LI · REL · RP. One with a reference: R = REL · (max_length / 100) / relevance_max · RP.

    LI = n / 100 of n words and marks (at most `max_length`), RP = distinct trigrams / trigrams, REL = dot product of
    the embeddings of answer and question, or of answer and reference where the input has one.
    """

    type: Literal["regularized_relevance"] = "regularized_relevance"
    embeddings: str | None = Field(
        None, min_length=1, max_length=64, description="An endpoint of /v1/embeddings' shape; None: cosine of words."
    )
    model: str = Field("", max_length=256, description="Sent to the endpoint as `model`.")
    relevance_max: float = Field(3.5, gt=0, description="REL that is worth full marks: 3.5 for Contriever.")
    max_length: int = Field(512, ge=1, description="Words and marks; more do not count.")
    length: bool = Field(True, description="Whether LI counts.")
    repetition: bool = Field(True, description="Whether RP counts.")
    relevance: bool = Field(True, description="Whether REL counts.")
    branching: bool = Field(True, description="Whether a reference makes a question a closed one.")

    def services(self) -> dict[str, str]:
        """The encoder."""
        return {"embeddings": self.embeddings} if self.embeddings else {}

    async def worth(self, inputs: Sequence[AnyInput], run: Run) -> list[Worth]:
        """Score every input by its texts."""
        refuse_aggregation(self.type, run)
        answers = [_cut(texts_of(given, self.type, f"input[{k}]")[1]) for k, given in enumerate(inputs)]
        closed = [self.branching and given.reference is not None for given in inputs]
        others = [
            given.reference or "" if is_closed else _asked(given)
            for given, is_closed in zip(inputs, closed, strict=True)
        ]
        relevances = await self._relevances(others, answers, run) if self.relevance else None
        return [
            Worth(self._score(answer, relevances[k] if relevances else None, closed=closed[k]))
            for k, answer in enumerate(answers)
        ]

    def _score(self, answer: str, relevance: float | None, *, closed: bool) -> float:
        tokens = words_and_marks(answer)
        score = distinct_share(tokens, 3) if self.repetition else 1.0
        if closed:
            full = self.max_length / 100
            return score * (full if relevance is None else relevance * full / self.relevance_max)
        score *= min(len(tokens), self.max_length) / 100 if self.length else 1.0
        return score if relevance is None else score * relevance

    async def _relevances(self, others: Sequence[str], answers: Sequence[str], run: Run) -> list[float]:
        if self.embeddings is None:
            return [self.relevance_max * _cosine(a, b) for a, b in zip(others, answers, strict=True)]
        endpoint = run.service(self.embeddings, "model.embeddings")
        texts = list(dict.fromkeys([*others, *answers]))
        told = await asked(run, endpoint, {"input": texts, "model": self.model})
        try:
            rows = sorted(told["data"], key=lambda row: row["index"])
            vectors: dict[str, Any] = {text: row["embedding"] for text, row in zip(texts, rows, strict=True)}
            found = [_dot(vectors[a], vectors[b]) for a, b in zip(others, answers, strict=True)]
        except (KeyError, TypeError, ValueError) as error:
            raise Broken(f"the endpoint {endpoint.name} gave no embedding for each text") from error
        if not all(map(math.isfinite, found)):
            raise Broken(f"the endpoint {endpoint.name} gave an embedding that is not finite")
        return found


def _asked(given: AnyInput) -> str:
    """All that users said; what is no conversation is its prompt."""
    if isinstance(given, Conversation):
        return "\n".join(turn.content for turn in given.messages[:-1] if turn.role == "user")
    return texts_of(given, "regularized_relevance", "input")[0]


def _cut(answer: str) -> str:
    found = ENDS.search(answer)
    return answer[: found.start()] if found and answer[: found.start()].strip() else answer


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _cosine(a: str, b: str) -> float:
    one, two = Counter(words(a)), Counter(words(b))
    norm = math.sqrt(sum(n * n for n in one.values()) * sum(n * n for n in two.values()))
    return sum(count * two[word] for word, count in one.items()) / norm if norm else 0.0
