"""`ragsam describe`: the published figures of the three ways to tune SAM, and the size of what is written."""

import json

import pytest

from ragsam.api.describe import describe, description_text
from ragsam.cli import main
from ragsam.errors import InputError
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import save_weights

PLAIN_VIT_B = {"backbone": "vit_b", "image_size": 512, "base": "a/sam_vit_b.pth", "detail": False, "fusion": None}


def trained(**options):
    about = describe("sam_lora", card="synapse8", options={**PLAIN_VIT_B, **options})
    return {part["name"]: part["trained"] for part in about["parts"]}, about


def test_samed():
    parts, about = trained()
    assert about["trained"] == 4_913_621
    assert parts["LoRA"] == 147_456
    assert parts["image encoder"] == parts["neck"] == 0
    assert f"{about['weights_bytes'] / 2**20:.1f}" == "18.7"


def test_samed_s_tunes_the_decoder_by_lora_alone():
    parts, about = trained(**{"network_def.decoder_lora": {"rank": 4}})
    transformer = 3_291_264  # 2 layers of SAM's decoder and the last attention
    assert about["trained"] == 4_913_621 - transformer + parts["LoRA of the decoder"]
    # Query and value of two self-attentions (256 to 256) and five cross-attentions (256 to 128), rank 4.
    assert parts["LoRA of the decoder"] == 2 * 4 * (2 * (256 + 256) + 5 * (256 + 128))


@pytest.mark.parametrize(("depth", "total"), [(False, 7_100_928), (True, 10_651_392)])
def test_adapters(depth, total):
    parts, _ = trained(**{"network_def.lora": None, "network_def.adapter": {"depth": depth}})
    adapters = {name: count for name, count in parts.items() if name.endswith("adapters")}
    assert set(adapters.values()) == {12 * 295_872}
    assert sum(adapters.values()) == total


def test_frequency_prompts():
    parts, _ = trained(**{"network_def.lora": None, "network_def.frequency": {}})
    assert parts["frequency prompts"] == 63_312


def test_base_weights_freeze_the_encoder_and_need_not_be_there():
    parts, about = trained(detail=True, fusion="label_prior", prompts="base")
    assert about["base"] == "sam_vit_b.pth"
    assert parts["image encoder"] == parts["prompt head"] == 0
    assert parts["detail branch"] > 0
    alone = describe("sam_lora", card="synapse8", options={**PLAIN_VIT_B, "base": None})
    assert alone["base"] is None
    assert alone["frozen"] == 0


def test_vit_h():
    _, about = trained(backbone="vit_h", image_size=1024)
    assert about["frozen"] == 637_026_048
    assert about["flops"] > 6e12


def test_a_run_is_described_by_its_own_card_and_file(run):
    about = describe(run)
    assert (about["name"], about["card"], about["measured"]) == ("run", "hippocampus", True)
    assert about["weights_bytes"] == (run / "models" / "model.safetensors").stat().st_size
    again = describe(run, options={"detail": False})
    assert again["measured"] is False
    assert again["weights_bytes"] < about["weights_bytes"]


def test_the_size_told_is_that_of_the_file_to_come(tmp_path):
    about = describe("sam_lora", card="hippocampus")
    network = Segmenter(2, lora={"rank": 4})
    save_weights(tmp_path / "w.safetensors", network.trainable_state(), network.about)
    assert about["weights_bytes"] == pytest.approx((tmp_path / "w.safetensors").stat().st_size, rel=0.005)


def test_the_text_is_a_table():
    lines = description_text(trained()[1]).splitlines()
    assert lines[0] == "sam_lora: vit_b, slices of 512 x 512 in patches of 16, 8 organs (synapse8)"
    assert "sam_vit_b.pth (not opened" in lines[1]
    table = lines[3:-3]
    assert len({len(line) for line in table}) == 1
    assert table[0].split() == ["part", "trained", "frozen", "GFLOP", "a", "slice"]
    assert table[-1].split()[:2] == ["total", "4,913,621"]
    assert "weights file: about 18.7 MiB" in lines


def test_the_command(capsys, tmp_path):
    path = tmp_path / "about.json"
    command = ["describe", "sam_lora", "--card", "synapse8", "--set", "base=x.pth", "--set", "detail=false"]
    assert main([*command, "--json", str(path)]) == 0
    about = json.loads(path.read_text())
    assert description_text(about) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "^--card: sam_lora is for any data set"),
        ({"card": "nothing"}, "nothing"),
        (
            {"card": "synapse8", "options": {"base": "x", "backbone": "vit_x"}},
            "^--set backbone: 'vit_x' is not one of vit_tiny",
        ),
        ({"card": "synapse8", "options": {"base": "x", "image_size": 40, "patch_size": 16}}, "^network: .*multiple"),
        ({"card": "synapse8", "options": {"bse": "x"}}, "^--set bse: no such option; did you mean base"),
    ],
)
def test_what_cannot_be_described_is_told(options, words):
    with pytest.raises(InputError, match=words):
        describe("sam_lora", **options)
