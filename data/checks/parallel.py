"""Work on many items in parallel processes, where one item may take its process down."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many processes can run at once here."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_each(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    jobs: int,
    crashed: Callable[[Item], Result],
    done: Callable[[int], None] = lambda count: None,
) -> list[Result]:
    """Return `function(item)` for every item, in their order, whatever the number of processes.

    Args:
        function: must be picklable, as its items and results; an exception that it lets out stops the work.
        items: what to work on.
        jobs: processes; 1 works in this process.
        crashed: gives the result of an item whose process died (killed for its memory, a fault in a decoder).
        done: called with the number of items that are done, as it grows.
    """
    results: dict[int, Result] = {}
    if jobs == 1:
        for i, item in enumerate(items):
            results[i] = function(item)
            done(len(results))
    while waiting := [i for i in range(len(items)) if i not in results]:
        if _run(function, items, waiting, jobs, results, done):
            continue
        # Items start in order, so a process that died held one of the first that are left: each is tried alone.
        for i in [i for i in waiting if i not in results][:jobs]:
            if not _run(function, items, [i], 1, results, done):
                results[i] = crashed(items[i])
                done(len(results))
    return [results[i] for i in range(len(items))]


def _run(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    waiting: Sequence[int],
    jobs: int,
    results: dict[int, Result],
    done: Callable[[int], None],
) -> bool:
    """Put the results of the waiting items into `results`; return whether all processes lived."""
    # Forked as by PyTorch's loaders, where that is the custom: nothing is imported again.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    alive = True
    with ProcessPoolExecutor(min(jobs, len(waiting)), context) as pool:
        futures = {pool.submit(function, items[i]): i for i in waiting}
        for future in as_completed(futures):
            try:
                results[futures[future]] = future.result()
            except BrokenProcessPool:
                alive = False
            else:
                done(len(results))
    return alive
