"""The learning rate rises, then falls along a cosine to its end."""

from __future__ import annotations

import pytest

from pipeline.training.schedule import TrainingSteps


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.5), (3, 2.0), (4, 2.0), (8, 1.1), (12, 0.2)]
)  # half way down: the mean of 2 and 0.2
def test_rates_of_a_run_of_twelve_steps_with_four_of_warm_up(step: int, rate: float) -> None:
    steps = TrainingSteps(lr=2.0, warmup_steps=4, lr_end_fraction=0.1)
    assert steps.learning_rate(step, 12) == pytest.approx(rate)


def test_without_warm_up_the_first_step_has_the_highest_rate() -> None:
    assert TrainingSteps(lr=2.0, warmup_steps=0).learning_rate(0, 5) == 2.0
