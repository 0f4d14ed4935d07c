"""From trained weights to the manifest: which step is published, and everything that is left of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from trainers import artifacts, checkpoints, early_stopping, precompute
from trainers.data.encoder import Encoder
from trainers.data.examples import Example
from trainers.errors import Diverged
from trainers.manifest import Checkpoint
from trainers.offline import OfflineTrainer
from trainers.token_masks import token_masks


def publish(trainer: OfflineTrainer, shown: Iterable[Example], encoder: Encoder) -> None:
    """Write all that the job leaves, the manifest last; every rank must call it."""
    run, found = trainer.run, checkpoints.saved(trainer.run.out)
    step = _published_step(trainer, found)
    size = run.objective.micro_batch_size
    masks = token_masks(trainer.model, list(shown), encoder, micro_batch_size=size, device=run.ranks.device)
    learned = artifacts.Learned.of(trainer.model, run.assignment, keep=run.ranks.speaks)
    if not learned.is_finite():
        raise Diverged(step)
    if not run.ranks.speaks:
        return
    artifacts.publish(
        run.out,
        run.assignment,
        learned,
        masks,
        history=[record for record in trainer.state.log_history if record["step"] <= step],
        checkpoints=found,
        trained_tokens=sum(run.data.examples[e].tokens for e in run.schedule.trained(trainer.state.global_step)),
    )
    precompute.discard(run.out)
    if run.assignment.spec.served_as == artifacts.MERGED:
        checkpoints.forget_states(run.out)


def _published_step(trainer: OfflineTrainer, found: Sequence[Checkpoint]) -> int:
    """After which step the policy is published, told to the job's owner; the trainer's weights are those then."""
    run, history = trainer.run, trainer.state.log_history
    step: int = trainer.state.global_step
    best = early_stopping.lowest(found, history) if run.objective.keep == "best" else None
    if best is None:
        run.progress.say("Publishing")
        return step
    losses = early_stopping.evaluations(history)
    loss, which = losses[best.step_number], f"the lowest validation loss of {len(found)} checkpoints"
    data = {"published_step": best.step_number, "valid_loss": loss}
    run.progress.say(f"Publishing the policy after step {best.step_number}: {loss:.4f} is {which}", data)
    if loss >= losses.get(0, inf):
        run.progress.say(f"The validation loss was never below {losses[0]:.4f}, that of the start", level="warn")
    if best.step_number != step:
        trainer.load_weights(best)
    return best.step_number
