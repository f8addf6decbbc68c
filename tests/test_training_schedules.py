"""Schedules of the learning rate, and recipes of options."""

import pytest
import torch
import yaml

from ragsam.cli import main
from ragsam.errors import InputError
from ragsam.networks.checkpoints import read_checkpoint
from ragsam.runs.recipes import recipe, recipe_names
from ragsam.runs.settings import checked_options
from ragsam.runs.templates import find_bundle
from ragsam.training.schedules import SCHEDULES, make_schedule


def rates(name, steps, learning_rate=0.5):
    """Return the learning rate of every step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)
    schedule = make_schedule(optimizer, name=name, learning_rate=learning_rate, steps=steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_warm_polynomial_by_hand():
    """40 steps: 4 of warm-up, then a fall that would end 50 steps later."""
    found = rates("warm_polynomial", 40)
    assert found[:5] == pytest.approx([0.125, 0.125, 0.25, 0.375, 0.5])  # each but the first the one of the step before
    assert found[5] == pytest.approx(0.5)
    assert found[30] == pytest.approx(0.5 * 0.5**0.9)  # 25 of 50 steps after the warm-up
    assert found[39] == pytest.approx(0.5 * (16 / 50) ** 0.9)


def test_long_trainings_warm_up_for_250_steps():
    found = rates("warm_polynomial", 5000)
    assert found[250] == pytest.approx(0.5)
    assert found[249] < found[250] > found[252]


def test_one_cycle_rises_over_the_first_part_and_ends_near_nothing():
    found = rates("one_cycle", 100)
    assert found.index(max(found)) == 15
    assert max(found) == pytest.approx(0.5, rel=1e-3)
    assert found[-1] < 1e-3


def test_constant_stays():
    assert rates("constant", 5) == [0.5] * 5


def test_an_unknown_schedule_is_told():
    with pytest.raises(InputError, match="schedule: 'sine' is unknown; choose one of one_cycle"):
        rates("sine", 5)


def test_cosine_falls_by_half_at_half_time():
    found = rates("cosine", 8)
    assert found[0] == pytest.approx(0.5)
    assert found[4] == pytest.approx(0.25)
    assert found[2] == pytest.approx(0.25 * (1 + 0.5**0.5))


@pytest.mark.parametrize("bundle", ["sam_lora", "sam_adapter", "sam_frequency"])
def test_the_default_recipe_is_what_a_bundle_has_anyway(bundle):
    config = yaml.safe_load((find_bundle(bundle) / "configs" / "train.yaml").read_text(encoding="utf-8"))
    assert {name: config[name] for name in recipe("default")} == recipe("default")


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("bundle", ["sam_lora", "sam_adapter", "sam_frequency"])
def test_every_recipe_is_of_knobs_that_every_bundle_has(name, bundle):
    text = (find_bundle(bundle) / "configs" / "train.yaml").read_text()
    options = recipe(name)
    assert checked_options(text, options) == options
    assert options.get("schedule", "one_cycle") in SCHEDULES
    assert name == "default" or any(yaml.safe_load(text)[option] != value for option, value in options.items())


def test_a_recipe_is_in_the_run_and_what_is_set_goes_before(study, tmp_path, capsys):
    small = {"backbone": "vit_tiny", "image_size": 32, "epochs": 1, "steps_per_epoch": 10, "batch_size": 2}
    options = [f"--set={name}={value}" for name, value in small.items()]
    command = ["train", "sam_lora", "--data", str(study), "--output", str(tmp_path / "run")]
    assert main([*command, "--recipe", "samed", *options]) == 0
    config = yaml.safe_load((tmp_path / "run" / "configs" / "train.yaml").read_text())
    assert {name: config[name] for name in recipe("samed")} == recipe("samed") | small
    last = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert last["optimizer"]["param_groups"][0]["weight_decay"] == 0.1
    assert main([*command, "--recipe", "samed2"]) == 2
    told = "--recipe samed2: no such recipe; choose one of adapter, default, frequency, low_memory, samed,"
    assert told in capsys.readouterr().err
