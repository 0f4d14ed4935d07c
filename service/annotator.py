"""Works annotations off, one after the other: sample, score, choose, write down; a prompt written down is done.

What is done lies in `annotations/<id>.jsonl`, one line a prompt, so a service that is stopped goes on where it was.
"""

from __future__ import annotations

import fcntl
import json
import logging
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from reward.annotating import Chosen, choose
from reward.spec import INPUTS_PER_REQUEST, AnyInput, Continuation, Conversation, Score, ScoreList, ScoreRequest
from service import annotating, files, registry
from service.annotating import AnnotationSpec
from service.db.tables import Annotation, File, now
from service.errors import Invalid, Refusal, Unavailable
from service.sampling import Sampler
from service.scores import Scores
from service.states import Status
from trainers.data.prompts import Prompt, read_prompts

log = logging.getLogger(__name__)

PROMPTS_AT_ONCE, TRIES, PAUSE_SECONDS = 8, 20, 5.0


class Ended(Exception):
    """The annotation was cancelled, or the service stops."""


@dataclass(frozen=True)
class Answered:
    """A prompt and its answers that are not empty."""

    prompt: Prompt
    answers: list[str]
    refused: str | None = None  #: why there are none


@dataclass(frozen=True)
class Annotator:
    """One thread's work; `tick` does one annotation to its end."""

    scores: Scores
    pause_seconds: float

    def run(self, stop: threading.Event) -> None:
        """Tick until told to stop; an error is logged and the next tick tries again."""
        while not stop.wait(self.pause_seconds):
            try:
                self.tick(stop)
            except Exception:
                log.exception("an annotation could not be dealt with; it is tried again")

    def tick(self, stop: threading.Event) -> None:
        """Work the oldest annotation off that no other service works on, if there is one, or until told to stop."""
        with self.scores.database.snapshot() as db:
            rows = annotating.unfinished(db)
        for row in rows:
            with _alone(self._folder() / f"{row.id}.lock") as mine:
                if mine:
                    Work(self.scores, stop, row, annotating.spec_of(row), self._folder()).carry_out()
                    return

    def _folder(self) -> Path:
        folder = self.scores.settings.home / "annotations"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


@contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Whether nobody else works on it; services on one database share the home folder."""
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
        lock.unlink(missing_ok=True)


@dataclass(frozen=True)
class Work:
    """One annotation."""

    scores: Scores
    stop: threading.Event
    row: Annotation
    spec: AnnotationSpec
    folder: Path

    def carry_out(self) -> None:
        """To its end, or until it is cancelled or the service stops."""
        try:
            self._work()
        except Ended:
            return
        except Refusal as refusal:
            self._move(status=Status.FAILED, finished_at=now(), error=refusal.envelope()["error"], reason=None)

    def _work(self) -> None:
        path = self.folder / f"{self.row.id}.jsonl"
        done = _written(path)
        counts = Counter(entry["outcome"] for entry in done)
        self._move(status=Status.RUNNING, done=len(done), counts=dict(counts))
        prompts = islice(self._prompts(), len(done), None)
        with path.open("a") as out, httpx.Client(trust_env=False) as http, ThreadPoolExecutor(PROMPTS_AT_ONCE) as pool:
            while chunk := list(islice(prompts, min(PROMPTS_AT_ONCE, INPUTS_PER_REQUEST // self.spec.n))):
                entries = self._patiently(chunk, http, pool)
                out.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
                out.flush()
                counts.update(entry["outcome"] for entry in entries)
                self._move(done=sum(counts.values()), counts=dict(counts), reason=None)
        self._finish(path, counts)

    def _patiently(self, chunk: list[Prompt], http: httpx.Client, pool: ThreadPoolExecutor) -> list[dict[str, Any]]:
        """A few prompts; an engine that is not there is waited for. Raises Unavailable after twenty tries."""
        for attempt in range(1, TRIES + 1):
            try:
                ask = partial(_answered, self._sampler(http), self.spec.seed)
                answered = list(pool.map(ask, chunk))
                return self._entries(answered)
            except Unavailable as refusal:
                if attempt == TRIES:
                    raise
                self._move(reason=f"waits for an engine: {refusal.message}")
                if self.stop.wait(PAUSE_SECONDS):
                    raise Ended from refusal
        raise AssertionError

    def _entries(self, answered: Sequence[Answered]) -> list[dict[str, Any]]:
        try:
            scored = self._scored([one for one in answered if one.answers])
        except Invalid as refusal:
            if not (refusal.param or "").startswith("input"):
                raise
            if len(answered) == 1:
                return [_entry(self.spec, replace(answered[0], answers=[], refused=refusal.message), None)]
            return [entry for one in answered for entry in self._entries([one])]
        return [_entry(self.spec, one, next(scored) if one.answers else None) for one in answered]

    def _scored(self, answered: Sequence[Answered]) -> Iterator[ScoreList]:
        inputs = [_input(one.prompt, answer) for one in answered for answer in one.answers]
        groups = [k for k, one in enumerate(answered) for _ in one.answers]
        if not inputs:
            return iter(())
        request = ScoreRequest(model=self.spec.reward_model, input=inputs, group_ids=groups)
        found = self.scores.score(request, self.row.tenant)
        rows: list[list[Score]] = [[] for _ in answered]
        for group, score in zip(groups, found.data, strict=True):
            rows[group].append(score)
        return iter([found.model_copy(update={"data": data}) for data in rows])

    def _sampler(self, http: httpx.Client) -> Sampler:
        with self.scores.database.snapshot() as db:
            servable = registry.servable(db, registry.find(db, self.spec.model, tenant=self.row.tenant))
        return Sampler(http, self.scores.engines.endpoint(servable), self.row.tenant, self.spec.sampling, self.spec.n)

    def _prompts(self) -> Iterator[Prompt]:
        with self.scores.database.snapshot() as db:
            file = files.get(db, self.spec.prompts_file, tenant=self.row.tenant, param="prompts_file")
        return read_prompts(self.scores.settings.files / file.id)

    def _finish(self, path: Path, counts: Counter[str]) -> None:
        """The pairs become a file of the tenant's, in the same transaction as the end."""
        if not counts["pairs"]:
            told = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
            why = next((f"; line {entry['line']}: {entry['why']}" for entry in _written(path) if "why" in entry), "")
            raise Invalid(f"no prompt gave a pair: {told}{why}", param="reward_model", code="no_pairs")
        file = self._stored(path)
        with self.scores.database.transaction() as db:
            db.add(file)
            db.flush()
            ended = annotating.move(
                db, self.row.id, status=Status.SUCCEEDED, finished_at=now(), file=file.id, reason=None
            )
            if not ended:
                db.delete(file)
        path.unlink()

    def _stored(self, path: Path) -> File:
        settings = self.scores.settings
        incoming = files.Incoming(settings.files, settings.max_file_bytes)
        try:
            with path.open() as source:
                for line in source:
                    if (pair := json.loads(line).get("pair")) is not None:
                        incoming.write((json.dumps(pair, ensure_ascii=False) + "\n").encode())
            return incoming.keep(tenant=self.row.tenant, filename=f"{self.row.id}.jsonl", purpose=files.TRAINING)
        finally:
            incoming.close()

    def _move(self, **values: Any) -> None:
        if self.stop.is_set():
            raise Ended
        with self.scores.database.transaction() as db:
            if not annotating.move(db, self.row.id, **values):
                raise Ended


def _written(path: Path) -> list[dict[str, Any]]:
    """What is done; a line cut short by the service's end is taken away, its prompt is done again."""
    if not path.exists():
        return []
    whole = path.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if kept != whole:
        path.write_bytes(kept)
    return [json.loads(line) for line in kept.splitlines()]


def _answered(sampler: Sampler, seed: int, prompt: Prompt) -> Answered:
    own = random.Random(f"{seed}/{prompt.line}").randrange(2**31)  # noqa: S311 - repeatable, not secret
    try:
        return Answered(prompt, [text for text in sampler.answers(prompt.prompt, own) if text.strip()])
    except Invalid as refusal:
        return Answered(prompt, [], refusal.message)


def _input(prompt: Prompt, answer: str) -> AnyInput:
    if isinstance(prompt.prompt, str):
        return Continuation(prompt=prompt.prompt, response=answer, reference=prompt.reference)
    turns = [*prompt.prompt, {"role": "assistant", "content": answer}]
    return Conversation.model_validate({"messages": turns, "reference": prompt.reference})


def _entry(spec: AnnotationSpec, one: Answered, scored: ScoreList | None) -> dict[str, Any]:
    """One prompt's line: its pair with scores and provenance, or why it has none."""
    if one.refused is not None:
        return {"line": one.prompt.line, "outcome": "unscorable", "why": one.refused}
    if scored is None:  # no answer had a text
        return {"line": one.prompt.line, "outcome": "equal_texts"}
    scores = [score.score for score in scored.data]
    found = choose(one.answers, scores, spec.selection, spec.seed + one.prompt.line)
    if not isinstance(found, Chosen):
        return {"line": one.prompt.line, "outcome": found}
    best, rejected = one.answers[found.best], one.answers[found.rejected]
    about = {
        "chosen_score": scores[found.best],
        "rejected_score": scores[found.rejected],
        "scores": scores,
        "provenance": {
            "policy": spec.model,
            "n": spec.n,
            "sampling": spec.sampling.model_dump(mode="json"),
            "selection": spec.selection.model_dump(mode="json"),
            "seed": spec.seed,
            "line": one.prompt.line,
            "reward": scored.provenance.model_dump(mode="json", exclude_none=True),
        },
    }
    return {"line": one.prompt.line, "outcome": "pairs", "pair": _pair(one.prompt, best, rejected) | about}


def _pair(prompt: Prompt, best: str, rejected: str) -> dict[str, Any]:
    if isinstance(prompt.prompt, str):
        return {"prompt": prompt.prompt, "chosen": best, "rejected": rejected}
    sides = {"preferred_output": best, "non_preferred_output": rejected}
    turns = {name: [{"role": "assistant", "content": text}] for name, text in sides.items()}
    return {"input": {"messages": list(prompt.prompt)}} | turns
