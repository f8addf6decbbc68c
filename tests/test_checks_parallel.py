"""Work in parallel: results in order, and a process that dies takes its own item with it alone."""

from __future__ import annotations

import os
import time

import pytest

from ragsam.data.checks.parallel import run_each


def square(number):
    time.sleep(0.01 * (number % 3))
    return number * number


def die_on_seven_and_eight(number):
    if number in (7, 8):
        os._exit(1)
    return square(number)


def fail_on_three(number):
    if number == 3:
        raise ValueError(number)
    return number


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_results_are_in_the_items_order(jobs):
    done = []
    found = run_each(square, range(12), jobs=jobs, crashed=lambda item: -1, done=done.append)
    assert found == [number**2 for number in range(12)]
    assert done == list(range(1, 13))
    assert run_each(square, [], jobs=jobs, crashed=lambda item: -1) == []


@pytest.mark.parametrize("jobs", [2, 3])
def test_a_dead_process_costs_its_item_alone(jobs):
    done = []
    found = run_each(die_on_seven_and_eight, range(12), jobs=jobs, crashed=lambda item: -item, done=done.append)
    assert found == [-number if number in (7, 8) else number**2 for number in range(12)]
    assert done == list(range(1, 13))


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_exception_is_let_out(jobs):
    with pytest.raises(ValueError, match="3"):
        run_each(fail_on_three, range(5), jobs=jobs, crashed=lambda item: -1)
