"""The examples in docstrings of the public API run as they stand."""

import doctest
from importlib import import_module

import pytest

MODULES = ["ragsam.prompting.clicks", "ragsam.data.cards.load", "ragsam.metrics.overlap", "ragsam.errors"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = import_module(name)
    found = doctest.testmod(module)
    assert (found.failed, found.attempted > 0) == (0, True)
