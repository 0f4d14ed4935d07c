"""A learned mask that has died is told once, with its step."""

from __future__ import annotations

from trainers.dead_masks import STRETCH, first_death


def log(*densities: float, name: str = "mask/density") -> list[dict[str, float]]:
    return [{"step": step, name: density} for step, density in enumerate(densities, 1)]


def told(history: list[dict[str, float]]) -> list[int]:
    return [end for end in range(len(history) + 1) if first_death(history[:end])]


def test_a_mask_is_dead_after_a_whole_stretch_of_zeros():
    assert told(log(0.5, *[0.0] * (STRETCH - 1))) == []
    assert told(log(0.5, *[0.0] * STRETCH)) == [STRETCH + 1]
    assert told(log(*[0.0] * STRETCH)) == [STRETCH]
    assert told(log(*[1e-6] * 3 * STRETCH)) == []


def test_it_is_told_once_even_where_it_dies_again():
    assert told(log(*[0.0] * 3 * STRETCH)) == [STRETCH]
    assert told(log(*[0.0] * STRETCH, 0.1, *[0.0] * STRETCH)) == [STRETCH]


def test_the_warning_names_the_step_and_the_mask():
    history = [record | {"mask/kl_density": 0.0} for record in log(*[0.3] * STRETCH)]
    assert str(first_death(history)).startswith(f"At step {STRETCH} the KL mask has been zero on every token")
    both = [record | {"mask/kl_density": 0.0} for record in log(*[0.0] * STRETCH)]
    assert str(first_death(both)).startswith(f"At step {STRETCH} the reward and KL mask has been zero")


def test_runs_without_masks_and_records_of_evaluations_alone_are_passed_over():
    assert told([{"step": step, "train_loss": 0.7} for step in range(3 * STRETCH)]) == []
    assert told([{"step": 0, "valid_loss": 0.7}, *log(*[0.0] * STRETCH)]) == [STRETCH + 1]
