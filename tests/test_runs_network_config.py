"""The network of a bundle's config, read as data and built without memory."""

import pytest
import torch

from ragsam.errors import InputError
from ragsam.networks.tuning import USUAL
from ragsam.runs.network_config import build_empty, input_channels, network_options
from ragsam.runs.options import untrained_network
from ragsam.runs.settings import read_options, set_options
from ragsam.runs.templates import CONFIGS, find_bundle


def text(config="train", bundle="sam_lora", **options):
    """Return a config with options set, as a run has it."""
    texts = {name: (find_bundle(bundle) / "configs" / f"{name}.yaml").read_text() for name in CONFIGS}
    untrained = untrained_network(read_options(set_options(texts["train"], options)))
    return set_options(texts[config], {**options, "untrained": untrained})


@pytest.mark.parametrize("config", CONFIGS)
def test_knobs_are_filled_in(config):
    options = network_options(text(config, image_size=32, detail=False), 5)
    assert options["num_classes"] == 5
    assert options["image_size"] == 32
    assert options["detail"] is False
    assert options["base"] is None
    assert options["lora"] == {"rank": 4, "targets": ["q", "v"]}


def test_the_network_takes_no_memory():
    network = build_empty(network_options(text(backbone="vit_h", image_size=1024, detail=False), 13))
    assert {parameter.device for parameter in network.parameters()} == {torch.device("meta")}
    assert sum(parameter.numel() for parameter in network.parameters()) > 600e6


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("bundle", ["sam_lora", "sam_adapter", "sam_frequency"])
def test_what_tunes_is_chosen_by_name_in_each_bundle_and_config(bundle, config):
    own = network_options(text(config, bundle), 2)
    for peft in ("adapter", ["decoder_lora", "frequency"]):
        network = build_empty(network_options(text(config, bundle, peft=peft), 2))
        names = [peft] if isinstance(peft, str) else peft
        assert network.about["tuning"] == {name: own[name] or USUAL[name] for name in names}
    # The options that are set stay.
    options = {"peft": "lora", "network_def.lora": {"rank": 2}, "network_def.adapter": {"depth": True}}
    network = build_empty(network_options(text(config, bundle, **options), 2))
    assert network.about["tuning"] == {"lora": {"rank": 2}}
    assert not network.stacked


def test_an_unknown_way_to_tune_is_refused():
    with pytest.raises(InputError, match="network: peft prefix is not one of lora, decoder_lora, adapter, frequency"):
        build_empty(network_options(text(peft=["lora", "prefix"]), 2))


@pytest.mark.parametrize("value", ["$1 + 1", "%x"])
def test_an_expression_is_refused_unrun(value):
    with pytest.raises(InputError, match="is an expression; write its value"):
        network_options(f"network_def:\n  detail: '{value}'\n", 1)


@pytest.mark.parametrize("value", ["'$1'", "'@x'", "'%x'", "{_target_: os.system}"])
@pytest.mark.parametrize("name", ["context_slices", "base", "fusion"])
def test_what_only_monai_would_make_is_no_value(value, name):
    network = "network_def:\n  base: '@base'\n  untrained: '@untrained'\n"
    config = f"{name}: {value}\nuntrained: {{fusion: {value}}}\nimage_size: 32\n{network}"
    with pytest.raises(InputError, match="is an expression; write its value"):
        input_channels(config) if name == "context_slices" else network_options(config, 1)


@pytest.mark.parametrize("config", ["a: 1", "", "[1]"])
def test_a_config_without_a_network_is_refused(config):
    with pytest.raises(InputError, match="has no `network_def`"):
        network_options(config, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network_def.lora.rnk": 3}, "LoRALinear has no option 'rnk'"),
        ({"network_def.lora.targets": ["x"]}, "choose some of q, k, v, proj, mlp"),
        ({"network_def.adapter": {"space": False, "mlp": False}}, "none of space, mlp and depth is on"),
        ({"network_def.frequency.rate": 2}, "rate 2 is not from 0 to below 1"),
        ({"fusion": "vote"}, "fusion 'vote' is unknown"),
        ({"prompts": "all"}, "prompts 'all' is unknown"),
        ({"normalisation": "x"}, "normalisation 'x' is unknown"),
        ({"coarse_training": True}, "without a loss"),
        ({"patch_size": 12}, "not a multiple of patch_size 12"),
    ],
)
def test_what_cannot_work_is_told_in_a_line(options, words):
    with pytest.raises(InputError, match=f"^network: .*{words}"):
        build_empty(network_options(text(**options), 2))
