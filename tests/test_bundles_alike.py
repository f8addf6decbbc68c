"""The bundles: one wiring, three ways to tune; each trains, segments and is kept whole."""

import json
import re

import pytest
import torch
import yaml

from ragsam.api.index import index_run
from ragsam.api.segment import segment_with_run
from ragsam.data.datalist import load_datalist
from ragsam.networks.checkpoints import load_weights
from ragsam.runs.run import run_config
from ragsam.runs.templates import CONFIGS, find_bundle, make_run

BUNDLES = {
    "sam_lora": {"lora": {"rank": 4, "targets": ["q", "v"]}},
    "sam_adapter": {"adapter": {"space": True, "mlp": True}},
    "sam_frequency": {"frequency": {"rate": 0.25}},
}
TUNING = re.compile(r"^(lora|adapter|frequency|untrained): .*\n", re.MULTILINE)
QUICK = {"image_size": 32, "epochs": 1, "steps_per_epoch": 2, "batch_size": 2, "validate_every": 1}


@pytest.mark.parametrize("bundle", [name for name in BUNDLES if name != "sam_lora"])
@pytest.mark.parametrize("config", [*(f"{name}.yaml" for name in CONFIGS), "logging.conf"])
def test_bundles_are_the_same_but_for_the_network(bundle, config):
    ours, first = ((find_bundle(name) / "configs" / config).read_text() for name in (bundle, "sam_lora"))
    assert TUNING.sub("", ours) == TUNING.sub("", first)
    assert (ours == first) == (config == "logging.conf")


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize("config", CONFIGS)
def test_each_bundle_names_its_own_way_alone(bundle, config):
    options = yaml.safe_load((find_bundle(bundle) / "configs" / f"{config}.yaml").read_text())
    options = options.get("untrained", options)
    ways = {name: options[name] for name in ("lora", "decoder_lora", "adapter", "frequency")}
    assert {name: options for name, options in ways.items() if options is not None} == BUNDLES[bundle]


@pytest.mark.parametrize("bundle", BUNDLES)
def test_each_bundle_is_complete(bundle):
    folder = find_bundle(bundle)
    assert (folder / "LICENSE").is_file()
    assert (folder / "docs" / "README.md").read_text().startswith(f"# {bundle}\n")
    about = json.loads((folder / "configs" / "metadata.json").read_text())
    assert about["version"] in about["changelog"]
    others = {json.loads((find_bundle(name) / "configs" / "metadata.json").read_text())["name"] for name in BUNDLES}
    assert len(others) == len(BUNDLES)


@pytest.mark.parametrize(
    ("bundle", "options"),
    [
        ("sam_adapter", {}),
        ("sam_frequency", {}),
        ("sam_adapter", {"network_def.adapter.depth": True, "context_slices": 2}),
        ("sam_lora", {"network_def.adapter": {"mlp": True}, "network_def.frequency": {"rate": 0.5}, "detail": False}),
    ],
    ids=["adapter", "frequency", "depth", "combined"],
)
def test_a_way_of_tuning_trains_is_kept_and_segments(study, tmp_path, bundle, options):
    run = make_run(bundle, study, tmp_path / "run", {**QUICK, **options})
    run_config(run, "train")
    index_run(run)
    cases = segment_with_run(run, [study], tmp_path / "out")
    assert [case.case for case in cases] == [case.case for case in load_datalist(study).section("test")]
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == len(cases)
    state, about = load_weights(run / "models" / "model.safetensors")
    named = {name for name, part in {"adapter": "_adapter.", "frequency": ".frequency.", "lora": ".updates."}.items()
             if any(part in key for key in state)}  # fmt: skip
    assert named == set(about["tuning"])
    moved = [key for key in state if key.endswith((".up.weight", ".b.weight")) and bool(state[key].any())]
    assert moved
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    channels = json.loads((run / "configs" / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert channels["num_channels"] == len(channels["channel_def"]) == 2 * options.get("context_slices", 1) + 1
