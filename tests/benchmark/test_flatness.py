"""Slopes of processes: what grows is found through noise and restarts, what does not is flat; the verdict names it."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from pipeline.benchmark import flatness
from pipeline.benchmark.samples import Sample


def life(
    role: str, pid: int, began: float, *, grows: float = 0.0, level: float = 300.0, count: int = 240
) -> list[Sample]:
    """A process that is looked at every 10 s. It gains 200 MB in its first minute, then `grows` MB an hour, with noise.

    The noise is 2 MB; level: MB without it.
    """
    chance = random.Random(pid)
    ages = [10.0 * number for number in range(count)]
    memory = [level - 200 * max(0, 1 - age / 60) + grows * age / 3600 + chance.uniform(-2, 2) for age in ages]
    return [
        Sample(began + age, role, pid, began, mb, 90.0, 40 + number % 2, 20)
        for number, (age, mb) in enumerate(zip(ages, memory, strict=True))
    ]


def test_a_leak_is_found_through_restarts_at_other_levels() -> None:
    samples = [
        *life("replica", 1, 0, grows=120, count=240),
        *life("replica", 2, 2400, grows=120, level=280, count=240),
        *life("commit", 3, 0, count=240),
    ]
    found = flatness.roles(samples)
    leak = found["replica"]["memory_mb"]
    assert 100 < leak["low"] < leak["hourly"] < leak["high"] < 140
    assert not leak["flat"]
    assert found["replica"]["files"]["flat"]
    assert found["commit"]["memory_mb"]["flat"]
    assert abs(found["commit"]["memory_mb"]["hourly"]) < 10
    assert 298 < found["commit"]["memory_mb"]["median"] < 302


def test_what_fills_up_in_the_first_half_of_a_life_is_flat_and_what_leaks_is_not() -> None:
    filled = [(10.0 * number, min(number, 100.0)) for number in range(240)]
    leaking = [(10.0 * number, float(number)) for number in range(240)]
    assert flatness.slope_of(flatness.judged([filled]), 20)["flat"]
    assert flatness.slope_of(flatness.judged([leaking]), 20)["hourly"] == pytest.approx(360)


def test_memory_that_goes_up_a_step_and_stays_is_no_leak() -> None:
    """As a decoder's of 40 minutes that was measured: 192 MB, and 198 and 204 in its second half."""
    steps = [192.0] * 132 + [198.0] * 42 + [204.0] * 66
    chance = random.Random(0)
    stepped = [(10.0 * number, mb + chance.uniform(-1, 1)) for number, mb in enumerate(steps)]
    assert not flatness.slope_of([stepped[120:]], 15)["flat"], "samples that count one by one are sure of a growth"
    found = flatness.slope_of(flatness.judged([stepped]), 15)
    assert found["low"] < 15 < found["hourly"]
    assert found["flat"]
    leaking = [(age, mb + 100 * age / 3600) for age, mb in stepped]
    assert not flatness.slope_of(flatness.judged([leaking]), 15)["flat"]


def test_a_slope_below_its_bound_is_flat_though_it_is_no_noise() -> None:
    line = [(10.0 * number, number / 36) for number in range(100)]  # 10 an hour, exactly
    assert flatness.slope_of([line], 11) == {"hourly": 10.0, "low": 10.0, "high": 10.0, "flat": True}
    assert not flatness.slope_of([line], 9)["flat"]


def test_growth_that_may_be_below_the_bound_is_no_complaint() -> None:
    chance = random.Random(0)
    noisy = [(10.0 * number, number / 9 + chance.uniform(-6, 6)) for number in range(30)]  # 40 an hour, for 5 minutes
    found = flatness.slope_of([noisy], 20)
    assert 0 < found["low"] < 20 < found["hourly"]
    assert found["flat"]


def test_a_process_that_ended_early_says_nothing() -> None:
    found = flatness.roles(life("decode", 1, 0, count=170))
    assert found == {"decode": {"processes": 1, "measured": 0}}


def test_the_size_of_rays_folder_is_judged_for_each_driver() -> None:
    steps = [[(began + 10.0 * number, mb) for number in range(240)] for began, mb in ((0, 5.0), (2400, 50.0))]
    assert flatness.folder(steps) == {"most_mb": 50.0, "hourly": 0.0, "low": 0.0, "high": 0.0, "flat": True}
    assert flatness.folder([]) == flatness.folder([[]]) == {"most_mb": 0.0}
    grown = [[(10.0 * number, float(number)) for number in range(240)]]
    assert flatness.folder(grown)["flat"] is False


BOOKS = {
    **{"closed": True, "recordings": 37, "rows": 40, "rows_expected": 40},
    **{"dead_letters": 1, "dead_letters_expected": 1, "differing": []},
}


@pytest.fixture(scope="module")
def passed() -> dict[str, Any]:
    """The figures of a soak that has passed."""
    samples = [one for pid, role in enumerate(flatness.NEEDED) for one in life(role, pid, 0)]
    return {
        **{"hours": 0.5, "kills": 4, "kills_survived": 4, "stop_seconds": [1.0, 2.0, 1.5], "processes_left": 0},
        **{"roles": flatness.roles(samples), "books": BOOKS, "free_disk_mb": [100, 90], "failures": []},
        "ray_folder": {"most_mb": 5.0, "hourly": 0.0, "low": 0.0, "high": 0.0, "flat": True},
    }


def test_a_soak_that_has_passed_has_no_complaints(passed: dict[str, Any]) -> None:
    assert flatness.complaints(passed) == []
    shown = flatness.table(passed | {"complaints": []})
    assert "| driver | 1 of 1 | 300 | " in shown
    assert "40 of 40 rows, 1 of 1 dead letters, books closed" in shown
    assert shown.endswith("flat and closed")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("books", "closed"), False, "the books are not closed"),
        (("books", "rows"), 39, "39 rows, expected 40"),
        (("books", "dead_letters"), 2, "2 dead letters, expected 1"),
        (("books", "differing"), ["00000003/a.wav"], "1 recordings differ from their copies: 00000003/a.wav ..."),
        (("failures",), ["after 9 s driver 1 ended by itself with 3"], "after 9 s driver 1 ended by itself with 3"),
        (("kills_survived",), 3, "4 kills, after 3 of them something was committed"),
        (("processes_left",), 2, "2 processes still run after the end"),
        (("roles", "gcs"), {"processes": 1, "measured": 0}, "gcs: no process lived long enough"),
        (("ray_folder",), {"most_mb": 5.0}, "Ray's folder: unknown MB an hour, above 200"),
        (
            ("roles", "driver", "files"),
            {"median": 40, "hourly": 60.0, "low": 50.0, "high": 70.0, "flat": False},
            "driver: files grows by 60 an hour (50 to 70), above 6",
        ),
    ],
)
def test_each_thing_that_is_wrong_is_named(
    passed: dict[str, Any], path: tuple[str, ...], value: object, said: str
) -> None:
    figures = copy.deepcopy(passed)
    inner = figures
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    assert flatness.complaints(figures) == [said]
    assert flatness.table(figures | {"complaints": [said]}).endswith(said)
