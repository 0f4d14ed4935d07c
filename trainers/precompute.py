"""Before the training: fill the reference store by one packed pass without gradients, or say why there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.collate import MicroBatches
from trainers.learner import Learner
from trainers.objectives import Objective
from trainers.policy import base_of
from trainers.ranks import Ranks
from trainers.reference import Ingredients, ReferenceStore, Shape, data_digest, digest, folder_digest
from trainers.rows import on
from trainers.spec import Assignment

FOLDER = "reference"
GB = 10**9


@dataclass(frozen=True)
class Prepared:
    """The store, where it fits, and what to tell the job's owner."""

    store: ReferenceStore | None
    sentence: str
    data: dict[str, Any]


def prepare(
    learner: Learner, data: MicroBatches, assignment: Assignment, tokenizer: Any, out: Path, me: Ranks
) -> Prepared:
    """The attempt's store for these examples, filled unless an earlier launch has; every rank must call it.

    It is kept under `out`, named by what the states depend on, and read in every epoch and after a relaunch.
    """
    objective = assignment.spec.method.objective
    if not objective.needs().reference:
        learner.start.begin("nothing")
        return Prepared(None, "The objective compares with no reference", {"reference": "none"})
    shape = _shape(learner, objective)
    made_of = ingredients(assignment, data, tokenizer, shape)
    store = ReferenceStore(out / FOLDER / made_of.digest(), data.examples, shape)
    size = store.bytes / GB
    said = {"reference_gb": round(size, 3), "reference_store_gb": objective.reference_store_gb}
    if size > objective.reference_store_gb:
        copied = learner.start.begin("model")
        why = f"its states would take {size:.3g} GB and reference_store_gb is {objective.reference_store_gb:g}"
        sentence = f"The reference runs at every step: {why}{_beside(copied)}"
        return Prepared(None, sentence, said | {"reference": "online", "frozen_gb": round(copied / GB, 3)})
    reused = store.done
    me.wait_for_all()
    if not reused:
        _fill(store, learner, data, made_of, objective, me)
    copied = learner.start.begin("head")
    origin = "found from an earlier launch" if reused else "computed once"
    sentence = f"Reference states {origin}: {1000 * size:.3g} MB on disk{_beside(copied)}"
    return Prepared(store, sentence, said | {"reference": "store", "frozen_gb": round(copied / GB, 3)})


def _beside(copied: int) -> str:
    return f"; a frozen copy of start weights takes {1000 * copied / GB:.3g} MB beside the policy" if copied else ""


def discard(out: Path) -> None:
    """Remove the attempt's stores: what is published needs none."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)


def ingredients(assignment: Assignment, data: MicroBatches, tokenizer: Any, shape: Shape) -> Ingredients:
    """What the states of these examples depend on."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return Ingredients(
        model=assignment.model_digest,
        adapter=folder_digest(assignment.adapter_path),
        tokenizer=digest(backend.to_str().encode() if backend else repr(tokenizer).encode()),
        template=digest(str(tokenizer.chat_template).encode()),
        data=data_digest(data.examples),
        max_length=assignment.spec.method.objective.max_length,
        dtype=str(shape.dtype),
        layout=data.layout.name,
        blocks=shape.blocks,
        mask=",".join(assignment.spec.method.objective.needs().activations),
    )


def _shape(learner: Learner, objective: Objective) -> Shape:
    base = base_of(learner.policy)
    config = base.config.get_text_config()
    needs = objective.needs()
    blocks = 1 + config.num_hidden_layers * needs.ref_states + learner.closed
    return Shape(blocks, config.hidden_size, base.dtype, mask=bool(needs.activations))


def _fill(
    store: ReferenceStore, learner: Learner, data: MicroBatches, made_of: Ingredients, objective: Objective, me: Ranks
) -> None:
    if me.speaks:
        store.create()
    me.wait_for_all()
    learner.to(me.device)
    for chunk in _chunks(data, objective, me):
        row = on(me.device, data.layout.collate([data.examples[e] for e in chunk]))
        store.write(chunk, learner.reference(row))
    me.wait_for_all()
    if me.speaks:
        store.finish(made_of)
    me.wait_for_all()


def _chunks(data: MicroBatches, objective: Objective, me: Ranks) -> Iterator[list[int]]:
    """This rank's examples, as many at a time as the token budget takes; of similar lengths, whoever has them."""
    order = sorted(range(len(data.examples)), key=lambda place: (-data.layout.tokens(data.examples[place]), place))
    chunk: list[int] = []
    used = 0
    for place in order[me.rank :: me.world]:
        size = data.layout.tokens(data.examples[place])
        if chunk and used + size > objective.micro_batch_tokens:
            yield chunk
            chunk, used = [], 0
        chunk.append(place)
        used += size
    if chunk:
        yield chunk
