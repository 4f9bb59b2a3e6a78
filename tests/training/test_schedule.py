"""The learning rate rises, then falls along a cosine to its end."""

from __future__ import annotations

import pytest

from pipeline.training.schedule import learning_rate


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.5), (3, 2.0), (4, 2.0), (8, 1.1), (12, 0.2)]
)  # half way down: the mean of 2 and 0.2
def test_rates_of_a_run_of_twelve_steps_with_four_of_warm_up(step: int, rate: float) -> None:
    assert learning_rate(step, peak=2.0, warmup=4, total=12, end_fraction=0.1) == pytest.approx(rate)


def test_without_warm_up_the_first_step_has_the_highest_rate() -> None:
    assert learning_rate(0, peak=2.0, warmup=0, total=5, end_fraction=0.1) == 2.0
