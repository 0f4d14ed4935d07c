"""Before the training: fill the reference stores by packed passes without gradients, or say why there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainers.collate import MicroBatches
from trainers.learner import Learner
from trainers.objectives import Objective
from trainers.policy import base_of
from trainers.reference import Ingredients, ReferenceStore, Shape, data_digest, digest, folder_digest
from trainers.rows import on
from trainers.run import Run
from trainers.spec import Assignment

FOLDER = "reference"
GB = 10**9
#: how the files are spoken of, and when the reference runs for one that has no store
OF = {"training_file": "", "validation_file": " of the validation file"}
WHEN = {"training_file": "step", "validation_file": "evaluation"}


def prepare(learner: Learner, files: Mapping[str, MicroBatches], run: Run, tokenizer: Any) -> dict[str, MicroBatches]:
    """Each file, by its field in the spec, with the attempt's store of it, filled unless an earlier launch has.

    Every rank must call it. Once a rank is asked to stop, stores may be incomplete or missing.

    The stores are kept under `out`, each named by what its states depend on, and read in every epoch and after a
    relaunch. A file whose store would exceed what the ones before it leave of `reference_store_gb` gets none.
    """
    if not run.objective.needs().reference:
        learner.start.begin("nothing")
        run.progress.say("The objective compares with no reference", {"reference": "none"})
        return dict(files)
    left, prepared = run.objective.reference_store_gb, dict(files)
    for named, data in files.items():
        if run.ranks.any(run.stop.requested):
            break
        store = _store(learner, data, run, tokenizer, left, named)
        left -= store.bytes / GB if store else 0
        prepared[named] = replace(data, store=store)
    _begin(learner, prepared, run)
    return prepared


def _begin(learner: Learner, files: Mapping[str, MicroBatches], run: Run) -> None:
    """What trains may change from here on: keep of its start what no store holds."""
    stored = all(data.store is not None for data in files.values())
    copied = learner.start.begin("head" if stored else "model")
    if copied:
        sentence = f"A frozen copy of start weights takes {1000 * copied / GB:.3g} MB beside the policy"
        run.progress.say(sentence, {"frozen_gb": round(copied / GB, 3)})


def _store(
    learner: Learner, data: MicroBatches, run: Run, tokenizer: Any, left: float, named: str
) -> ReferenceStore | None:
    """The file's store, filled where it fits into `left` GB; tells the job's owner."""
    shape = _shape(learner, run.objective)
    made_of = ingredients(run.assignment, data, tokenizer, shape)
    store = ReferenceStore(run.out / FOLDER / made_of.digest(), data.examples, shape)
    size, limit = store.bytes / GB, run.objective.reference_store_gb
    said = {"reference_gb": round(size, 3), "reference_store_gb": limit, "file": named}
    if size > left:
        taken = f" ({left:.3g} GB left)" if left < limit else ""
        why = f"its states would take {size:.3g} GB and reference_store_gb is {limit:g}{taken}"
        run.progress.say(f"The reference runs at every {WHEN[named]}: {why}", said | {"reference": "online"})
        return None
    origin = _filled(store, learner, data, made_of, run)
    sentence = f"Reference states{OF[named]} {origin}: {1000 * size:.3g} MB on disk"
    run.progress.say(sentence, said | {"reference": "store"})
    return store


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


def _filled(store: ReferenceStore, learner: Learner, data: MicroBatches, made_of: Ingredients, run: Run) -> str:
    """Fill the store as far as a stop allows, a pass of each rank at a time; how its states came about."""
    me, objective = run.ranks, run.objective
    plan = {"ranks": me.world, "micro_batch_tokens": objective.micro_batch_tokens}
    done, begun = store.done, store.paused(plan)
    me.wait_for_all()
    if done:
        return "found from an earlier launch"
    if me.speaks and not begun:
        store.create()
    me.wait_for_all()
    shares = [list(_chunks(data, objective, rank, me.world)) for rank in range(me.world)]
    passes = max(map(len, shares))
    written = _fill(store, learner, data, shares[me.rank], range(begun, passes), run)
    store.flush()
    me.wait_for_all()
    if me.speaks and written == passes:
        store.finish(made_of)
    elif me.speaks:
        store.pause(plan, written)
    me.wait_for_all()
    if written < passes:
        return f"interrupted after {written} of {passes} passes"
    return f"completed from pass {begun + 1}" if begun else "computed once"


def _fill(
    store: ReferenceStore, learner: Learner, data: MicroBatches, chunks: list[list[int]], passes: range, run: Run
) -> int:
    """Make the passes in turn until a rank is asked to stop; how many there are by then."""
    learner.to(run.ranks.device)
    for place in passes:
        if run.ranks.any(run.stop.requested):
            return place
        if place < len(chunks):
            row = on(run.ranks.device, data.layout.collate([data.examples[e] for e in chunks[place]]))
            store.write(chunks[place], learner.reference(row))
    return passes.stop


def _chunks(data: MicroBatches, objective: Objective, rank: int, world: int) -> Iterator[list[int]]:
    """A rank's examples, as many at a time as the token budget takes; of similar lengths, whoever has them."""
    order = sorted(range(len(data.examples)), key=lambda place: (-data.layout.tokens(data.examples[place]), place))
    chunk: list[int] = []
    used = 0
    for place in order[rank::world]:
        size = data.layout.tokens(data.examples[place])
        if chunk and used + size > objective.micro_batch_tokens:
            yield chunk
            chunk, used = [], 0
        chunk.append(place)
        used += size
    if chunk:
        yield chunk
