"""Whether processes stay as they are: slopes of memory, files and threads of each role, from samples of its processes.

Only the second half of a process's life is looked at: what fills up stays level there, what leaks grows there too. It
counts in medians of BLOCK_SECONDS, since samples that follow each other are not independent: memory goes up and down in
steps that last for minutes. The slope of a role is that of all its processes together: of each, ages and values are
taken from their medians, and of all pairs of these points the median slope counts (Theil and Sen), with its interval of
95 %. A role is flat unless that whole interval lies above a bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import theilslopes

from pipeline.benchmark.samples import Sample

HOUR = 3600.0
BLOCK_SECONDS = 180.0
LEAST_BLOCKS = 5  # whole ones of one process; with fewer there is no interval of 95 %
BOUNDS = {"memory_mb": 20.0, "files": 6.0, "threads": 6.0}  # that each may grow in an hour
RAY_FOLDER_BOUND = 200.0  # MB that Ray's folder may grow in an hour
SHOWN = {"memory_mb": "memory, MB", "files": "files", "threads": "threads"}
NEEDED = ("driver", "decode", "replica", "commit", "raylet", "gcs")  # roles that must have been measured
Life = Sequence[tuple[float, float]]  # of one process: seconds since the start of the soak, value


def slope_of(lives: Sequence[Life], bound: float) -> dict[str, Any]:
    """The slope that processes have in common: hourly, low, high, flat. lives: at least one, of two points or more."""
    centred = [np.array(life, np.float64) - np.median(np.array(life, np.float64), axis=0) for life in lives]
    points = np.concatenate(centred)
    slope = (0.0, 0.0, 0.0)
    if points[:, 1].any():  # else there is no interval
        found = theilslopes(points[:, 1], points[:, 0] / HOUR, 0.95)
        slope = (found.slope, found.low_slope, found.high_slope)
    hourly, low, high = (round(float(value), 2) for value in slope)
    return {"hourly": hourly, "low": low, "high": high, "flat": low <= bound}


def judged(lives: Iterable[Life]) -> list[Life]:
    """The second half of each life in medians of BLOCK_SECONDS. Lives with too few are left out."""
    kept = [_blocks([point for point in life if point[0] >= (life[0][0] + life[-1][0]) / 2]) for life in lives if life]
    return [blocks for blocks in kept if len(blocks) >= LEAST_BLOCKS]


def _blocks(life: Life) -> Life:
    """The medians of whole blocks. A block is whole within the distance of two points."""
    points = np.array(life, np.float64)
    ages = points[:, 0] - points[0, 0]
    every = float(np.median(np.diff(ages))) if len(ages) > 1 else 0.0
    whole = int((ages[-1] + every) // BLOCK_SECONDS)
    blocks = (points[ages // BLOCK_SECONDS == number] for number in range(whole))
    return [(float(at), float(value)) for at, value in (np.median(block, axis=0) for block in blocks if len(block))]


def folder(lives: Iterable[Life]) -> dict[str, Any]:
    """The slope of the size of Ray's folder, in MB, and most_mb. lives: of each driver. Without a life: no slope."""
    lives = list(lives)
    kept = judged(lives)
    slope = slope_of(kept, RAY_FOLDER_BOUND) if kept else {}
    return {"most_mb": max((size for life in lives for _, size in life), default=0.0)} | slope


def roles(samples: Iterable[Sample]) -> dict[str, dict[str, Any]]:
    """For each role: its processes, and how many were measured; of each name in BOUNDS median and slope.

    A role of which no process lived long enough has no slopes.
    """
    lives: dict[str, dict[tuple[int, float], list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        lives[sample.role][sample.pid, sample.started].append(sample)
    found: dict[str, dict[str, Any]] = {}
    for role, processes in lives.items():
        found[role] = {"processes": len(processes)}
        for name, bound in BOUNDS.items():
            kept = judged([(one.seconds, getattr(one, name)) for one in life] for life in processes.values())
            found[role]["measured"] = len(kept)
            if kept:
                middle = median(value for life in kept for _, value in life)
                found[role][name] = {"median": middle} | slope_of(kept, bound)
    return found


def complaints(figures: dict[str, Any]) -> list[str]:
    """What is not as it should be, a line each; none: the soak has passed. figures: of `soak.run`."""
    by_role, books = figures["roles"], figures["books"]
    said = list(figures["failures"])
    said += [
        f"{role}: {name} grows by {one['hourly']:g} an hour ({one['low']:g} to {one['high']:g}), above {bound:g}"
        for role, found in by_role.items()
        for name, bound in BOUNDS.items()
        if (one := found.get(name)) and not one["flat"]
    ]
    said += [f"{role}: no process lived long enough" for role in NEEDED if not by_role.get(role, {}).get("measured")]
    size = figures["ray_folder"]
    if not size.get("flat"):
        said.append(f"Ray's folder: {_hourly(size) or 'unknown'} MB an hour, above {RAY_FOLDER_BOUND:g}")
    if not books["closed"]:
        said.append("the books are not closed")
    said += [
        f"{books[name]} {text}, expected {books[f'{name}_expected']}"
        for name, text in (("rows", "rows"), ("dead_letters", "dead letters"))
        if books[name] != books[f"{name}_expected"]
    ]
    if books["differing"]:
        said.append(f"{len(books['differing'])} recordings differ from their copies: {books['differing'][0]} ...")
    if figures["kills_survived"] != figures["kills"]:
        said.append(f"{figures['kills']} kills, after {figures['kills_survived']} of them something was committed")
    if figures["processes_left"]:
        said.append(f"{figures['processes_left']} processes still run after the end")
    return said


def table(figures: dict[str, Any]) -> str:
    """The figures of `soak.run` as Markdown."""
    head = ["role", "processes", *(cell for name in SHOWN.values() for cell in (name, "an hour")), "flat"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(_cells(role, found)) + " |" for role, found in figures["roles"].items()]
    size, books, free = figures["ray_folder"], figures["books"], figures["free_disk_mb"]
    stops = ", ".join(f"{seconds:.1f} s" for seconds in figures["stop_seconds"])
    lines += [
        "",
        f"{figures['hours']:g} hours, {books['recordings']:,} recordings, {books['rows']:,} of "
        f"{books['rows_expected']:,} rows, {books['dead_letters']:,} of {books['dead_letters_expected']:,} "
        f"dead letters, books {'closed' if books['closed'] else 'NOT CLOSED'}",
        f"{figures['kills_survived']} of {figures['kills']} kills survived; the driver was stopped "
        f"{len(figures['stop_seconds'])} times and ended within {stops}",
        f"Ray's folder: at most {size['most_mb']:.0f} MB, {_hourly(size)} MB an hour while a driver runs; free disk "
        f"{free[0]:,} MB before, {free[1]:,} MB after",
        *(figures["complaints"] or ["flat and closed"]),
    ]
    return "\n".join(lines)


def _cells(role: str, found: dict[str, Any]) -> list[str]:
    cells = [role, f"{found['measured']} of {found['processes']}"]
    for name in SHOWN:
        cells += [f"{found[name]['median']:.0f}" if name in found else "", _hourly(found.get(name, {}))]
    if not found["measured"]:
        return [*cells, "too short"]
    return [*cells, "yes" if all(found[name]["flat"] for name in SHOWN) else "NO"]


def _hourly(slope: dict[str, Any]) -> str:
    return "{hourly:+.1f} ({low:+.1f} to {high:+.1f})".format(**slope) if "hourly" in slope else ""
