"""Freed memory is kept for what follows, and every config of a bundle asks for that before anything else."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml

#: Counts the pages that the system must give for tensors of 40 MB, one after the other, as told and as it was.
PAGES = """
import resource, torch
from ragsam.console.malloc import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(10**7)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = pages()
keep_freed_memory()
pages()  # until there is a place that fits
print(plain, pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_next_tensor_takes_what_the_last_one_freed():
    told = subprocess.run([sys.executable, "-c", PAGES], check=True, capture_output=True, text=True).stdout
    plain, kept = map(int, told.split())
    assert 5 * kept < plain


def test_every_config_that_runs_a_network_asks_for_it():
    bundles = Path(str(resources.files("ragsam.bundles")))
    configs = [path for path in bundles.glob("*/configs/*.yaml") if "run" in (yaml.safe_load(path.read_text()) or {})]
    assert {path.name for path in configs} >= {"train.yaml", "inference.yaml", "evaluate.yaml", "multi_gpu_train.yaml"}
    for path in configs:
        first = yaml.safe_load(path.read_text())["initialize"][0]
        assert first == {"_target_": "ragsam.bundle.keep_freed_memory"}, path
