"""Work on many items in parallel processes, where one item may take its process down."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ragsam.console.interrupts import leave_interrupts_to_parent

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many processes can run at once here."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        jobs: processes; 1 works in this process.
        crashed: gives the result of an item whose process died (killed for its memory, a fault in a decoder).
        done: called with the number of items done, as it grows.
    """
    results: dict[int, Result] = {}

    def keep(number: int, result: Result) -> None:
        results[number] = result
        done(len(results))

    if jobs == 1:
        for number, item in enumerate(items):
            keep(number, function(item))
    waiting = set(range(len(items))) - results.keys()
    while waiting:
        alive = _run(function, {i: items[i] for i in sorted(waiting)}, jobs, keep)
        waiting -= results.keys()
        # Items start in order, so a process that died held one of the first that are left: each is tried alone.
        suspects = [] if alive else sorted(waiting)[:jobs]
        for number in suspects:
            if not _run(function, {number: items[number]}, 1, keep):
                keep(number, crashed(items[number]))
        waiting -= results.keys()
    return [results[number] for number in range(len(items))]


def _run(
    function: Callable[[Item], Result], items: Mapping[int, Item], jobs: int, keep: Callable[[int, Result], None]
) -> bool:
    """Keep the results of numbered items as they come; return whether all processes lived."""
    # Forked as by PyTorch's loaders, where that is the custom: nothing is imported again.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    alive = True
    with ProcessPoolExecutor(min(jobs, len(items)), context, _start_worker) as pool:
        futures = {pool.submit(function, item): number for number, item in items.items()}
        try:
            for future in as_completed(futures):
                try:
                    result = future.result()
                except BrokenProcessPool:
                    alive = False
                else:
                    keep(futures[future], result)
        except KeyboardInterrupt:  # leaving the pool would wait for all of them
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
                worker.join()
            raise
    return alive


def _start_worker() -> None:
    leave_interrupts_to_parent()
    warnings.simplefilter("ignore")  # every process would tell them; what is found of a case is in its result
