"""Options set: which there are, what they take, and that none of them can run code."""

import re

import pytest
import yaml

from ragsam.errors import InputError
from ragsam.io.documents import schema_faults
from ragsam.runs.options import OPTIONS
from ragsam.runs.run import RunFolder
from ragsam.runs.settings import TUNING, as_yaml, checked_options, parse_option, read_options, set_options
from ragsam.runs.templates import CONFIGS, find_bundle

TEXT = """# Training.
imports:
- $import torch
bundle_root: .
data: $@bundle_root + '/x'  # where
epochs: 20
rate: 0.001  # of learning
detail: true
base: null
spacing: [1.0, 2.0]

# Wiring.
other: 7
network:
  epochs: 3
"""


def test_knobs_are_the_plain_values_above_the_wiring():
    assert read_options(TEXT).keys() == {"data", "epochs", "rate", "detail", "base", "spacing"}


def test_knobs_are_set_in_place_and_nothing_else_changes():
    text = set_options(TEXT, {"epochs": 3, "base": "a b.pth", "other": 8, "network": 1, "absent": 2})
    changed = [(old, new) for old, new in zip(TEXT.splitlines(), text.splitlines(), strict=True) if old != new]
    assert changed == [("epochs: 20", "epochs: 3"), ("base: null", "base: a b.pth")]
    assert set_options(TEXT, {"rate": 0.5}).count("rate: 0.5  # of learning\n") == 1
    assert set_options(TEXT, {}) == TEXT


PLAIN = [0, -3, 1e-5, 1e20, 0.1, True, None, [1, 2.5], [None, "x"], []]
TEXTS = ["plain", "ä ö/日本", "a: b", "# no comment", "'\"", "1e-5", "null", "@x", "a\nb", ""]


@pytest.mark.parametrize("value", [*PLAIN, *TEXTS], ids=repr)
def test_a_value_set_is_the_value_read(value):
    read = yaml.safe_load(set_options(TEXT, {"base": value}))["base"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=3", ("epochs", 3)),
        ("rate=1e-3", ("rate", "1e-3")),  # as YAML has it; `checked_options` makes a number of it
        ("rate=0.5", ("rate", 0.5)),
        ("detail=false", ("detail", False)),
        ("base=null", ("base", None)),
        ("base=", ("base", None)),
        ("spacing=[1.5, 2]", ("spacing", [1.5, 2])),
        ("base=a=b", ("base", "a=b")),
        ("base='x: y'", ("base", "x: y")),
        ("base=1 $", ("base", "1 $")),
    ],
)
def test_knob_of_the_command_line(text, expected):
    assert parse_option(text) == expected


EXPRESSIONS = ["$1+1", " $1+1", "'$1+1'", '"$1"', "@epochs", "%x", "'@epochs'", "['$1']", "[1, [' $1']]"]


@pytest.mark.parametrize("value", [*EXPRESSIONS, "{_target_: os.getcwd}", "[{_target_: os.getcwd}]"])
def test_what_would_run_code_is_refused(value):
    with pytest.raises(InputError, match="--set base: expressions and mappings are not taken here"):
        parse_option(f"base={value}")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("epochs", "--set epochs: write it as KEY=VALUE"),
        ("=3", "--set =3: write it as KEY=VALUE"),
        ("base=[1", "--set base: '[1' is not valid YAML; quote it"),
        ("base=a: b: c", "--set base: 'a: b: c' is not valid YAML; quote it"),
        ("epochs=.inf", "--set epochs: '.inf' is not taken (a number that is too large or none)"),
        ("epochs=1" + 20 * "0", f"--set epochs: '1{20 * '0'}' is not taken (a number that is too large or none)"),
    ],
)
def test_malformed_knob_is_told_in_one_line(text, line):
    with pytest.raises(InputError) as error:
        parse_option(text)
    assert str(error.value) == line


def test_values_must_be_of_the_kind_of_the_default():
    given = {"epochs": 3, "rate": "1e-3", "detail": False, "base": "x.pth", "data": "x", "spacing": [1, 1]}
    assert checked_options(TEXT, given) == {**given, "rate": 0.001}
    assert checked_options(TEXT, {"rate": 1}) == {"rate": 1.0}
    assert checked_options(TEXT, {"base": None}) == {"base": None}


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("epochs", "many", "a whole number from 1 on; the default is 20"),
        ("epochs", 2.5, "a whole number"),
        ("epochs", True, "a whole number"),
        ("epochs", None, "a whole number"),
        ("rate", "fast", "a number; the default is 0.001"),
        ("rate", True, "a number"),
        ("rate", float("nan"), "a number"),
        ("rate", "inf", "a number"),
        ("detail", 1, "true or false"),
        ("data", 3, "a text"),
    ],
)
def test_value_of_another_kind_is_refused(name, value, wanted):
    with pytest.raises(InputError, match=f"--set {name}: .* is not {wanted}"):
        checked_options(TEXT, {name: value})


def test_null_is_taken_where_the_type_has_it():
    text = "fusion: a\nbackbone: b\n\n# Wiring.\n"
    assert checked_options(text, {"fusion": None}) == {"fusion": None}
    with pytest.raises(InputError, match="--set backbone: None is not one of vit_tiny"):
        checked_options(text, {"backbone": None})


def test_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"--set epoch: no such option; did you mean epochs\?"):
        checked_options(TEXT, {"epoch": 3, "epochs": 3})
    with pytest.raises(InputError, match="--set xyz: no such option; `ragsam train --options` lists them"):
        checked_options(TEXT, {"xyz": 3})


def test_configs_of_the_bundle_share_the_options_that_inference_needs():
    """An option set for training must reach the other configs, or a run would segment with another network."""
    texts = {name: (find_bundle("sam_lora") / "configs" / f"{name}.yaml").read_text() for name in CONFIGS}
    options = {name: read_options(text) for name, text in texts.items()}
    names = {name: found.keys() for name, found in options.items()}
    slices = {
        "image_size",
        "slice_axis",
        "slice_layout",
        "context_slices",
        "context_distance_mm",
        "spacing_mm",
        "base",
        "carry",
        "store",
    }
    for config in CONFIGS:
        assert names[config] >= slices | {"retrieval", "neighbours", "descriptor", "datalist", "card", "weights"}
    assert names["evaluate"] - names["inference"] == {"evaluation_dir", "baseline"}
    assert names["inference"] - names["evaluate"] == {"uncertainty", "probabilities"}  # maps are written, not measured
    wiring = {name: yaml.safe_load(text.split("\n# Wiring.", 1)[1]) for name, text in texts.items()}
    assert wiring["train"]["preparation"] == wiring["inference"]["preparation"] == wiring["evaluate"]["preparation"]
    assert wiring["inference"]["network_def"] == wiring["evaluate"]["network_def"]
    # What belongs to the weights is read from them; until there are some it stands in one entry, as in training.
    network = {"backbone", "patch_size", "detail", "full_tuning", "fusion", "prompts", "normalisation", "mask_tokens"}
    network |= {"peft", *TUNING, "coarse_training", "checkpointing", "enlarged", "efficient_decoder"}
    trained = {name: options["train"][name] for name in network}
    for config in ("inference", "evaluate"):
        assert not names[config] & network
        assert options[config]["untrained"] == trained


#: As in a run of before, where what tunes stood in the wiring; and as it stands now.
EARLIER = """a: 1

# Wiring.
network_def:
  _target_: x
  width: '@a'
  lora:
    rank: 4
    targets: [q, v]
  adapter: null
network: $@network_def
"""
NETWORK = """a: 1
lora: {rank: 4, targets: [q, v]}  # low-rank updates
adapter: null

# Wiring.
network_def:
  _target_: x
  lora: '@lora'
"""


@pytest.mark.parametrize(
    ("given", "lora", "adapter"),
    [
        ({"network_def.lora.rank": 8}, {"rank": 8, "targets": ["q", "v"]}, None),
        ({"network_def.lora": None}, None, None),
        ({"network_def.lora.alpha": 2}, {"rank": 4, "targets": ["q", "v"], "alpha": 2}, None),
        ({"network_def.adapter.space": True, "network_def.lora": {"rank": 1}}, {"rank": 1}, {"space": True}),
        (
            {"network_def.adapter": {"mlp": True}, "network_def.adapter.space": False},
            None,
            {"mlp": True, "space": False},
        ),
    ],
)
def test_what_tunes_the_network_is_set_entry_by_entry(given, lora, adapter):
    lora = {"rank": 4, "targets": ["q", "v"]} if lora is None and "network_def.lora" not in given else lora
    checked = {name.removeprefix("network_def."): value for name, value in given.items()}
    assert checked_options(EARLIER, given) == checked_options(NETWORK, given) == checked
    read = yaml.safe_load(set_options(EARLIER, given))
    assert read.pop("network_def") == {"_target_": "x", "width": "@a", "lora": lora, "adapter": adapter}
    assert read == {"a": 1, "network": "$@network_def"}
    for values in (given, checked):
        text = set_options(NETWORK, values)
        assert text.split("# Wiring.")[1] == NETWORK.split("# Wiring.")[1]
        read = yaml.safe_load(text)
        assert (read["lora"], read["adapter"]) == (lora, adapter)


@pytest.mark.parametrize("name", ["network_def.width", "network_def._target_", "network_def.x", "network_def.lora.a.b"])
@pytest.mark.parametrize("text", [EARLIER, NETWORK])
def test_no_other_part_of_the_wiring_can_be_set(text, name):
    with pytest.raises(InputError, match=f"--set {name}: no such option"):
        checked_options(text, {name: 1})


def test_comments_behind_a_mapping_of_several_lines_stay():
    text = EARLIER.replace("    targets: [q, v]\n", "    targets: [q, v]\n\n  # Of the encoder.\n")
    assert "lora: {rank: 8, targets: [q, v]}\n\n  # Of the encoder.\n  adapter" in set_options(text, {"lora.rank": 8})


def test_a_part_of_the_network_takes_a_mapping_without_code():
    assert parse_option("network_def.adapter={space: true}") == ("network_def.adapter", {"space": True})
    for value in ("{_target_: os.getcwd}", "{space: $1}", "{space: {a: 1}}", "{space: ['@a']}"):
        with pytest.raises(InputError, match="expressions and mappings are not taken here"):
            parse_option(f"network_def.adapter={value}")


RANGES = [
    ("batch_size", 0, "a whole number from 1 on"),
    ("image_size", 0, "a whole number from 16 to 4096"),
    ("epochs", 0, "a whole number from 1 on"),
    ("steps_per_epoch", -3, "a whole number from 1 on"),
    ("validate_every", 0, "a whole number from 1 on"),
    ("accumulation_steps", 0, "a whole number from 1 on"),
    ("patience", 0, "a whole number from 1 on or null"),
    ("workers", -1, "a whole number from 0 to 1024"),
    ("seed", 2**32, "a whole number from 0 to "),
    ("learning_rate", -1, "a number from 0 on"),
    ("learning_rate", 10**400, "a number from 0 on"),
    ("background_share", 1.5, "a number from 0 to 1"),
    ("spacing_mm", [0, 0], "a list of 2 numbers above 0 or null"),
    ("spacing_mm", [4], "a list of 2 numbers above 0 or null"),
    ("spacing_mm", 4, "a list of 2 numbers above 0 or null"),
    ("class_weights", [1, -1], "a list of numbers from 0 on or null"),
    ("test_scales", 0.9, "a list of numbers from 0.5 to 2"),
    ("test_scales", [3], "a list of numbers from 0.5 to 2"),
    ("test_shift", -1, "a whole number from 0 to 4096"),
    ("slice_axis", 3, "one of 0, 1, 2"),
    ("slice_axis", True, "one of 0, 1, 2"),
    ("schedule", "step", "one of one_cycle, warm_polynomial, cosine, constant"),
    ("checkpointing", "all", "one of attention, mlp, blocks, null"),
]
#: With every option.
EVERY = "".join(f"{name}: null\n" for name in OPTIONS) + "\n# Wiring.\nimports: []\n"


@pytest.mark.parametrize(("name", "value", "wanted"), RANGES)
def test_a_value_out_of_range_is_refused_wherever_it_is_given(tmp_path, name, value, wanted):
    with pytest.raises(InputError, match=f"--set {name}: .* is not {re.escape(wanted)}"):
        checked_options(EVERY, {name: value})
    if value == 10**400:
        return
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.yaml").write_text(f"{name}: {as_yaml(value)}\n\n# Wiring.\n")
    run = RunFolder(tmp_path)
    for look in (run.text, run.content, run.parser, run.workflow):
        with pytest.raises(InputError, match=rf"configs/inference\.yaml: {name}.*: .* is needed, got"):
            look("inference")


def test_every_default_is_in_its_own_range_and_every_number_has_one():
    for option in OPTIONS.values():
        if not str(option.default).startswith("$"):
            assert not list(schema_faults(option.default, option.schema)), option.name
        if {int, float, list[float]} & set(option.kinds):
            assert option.limits, option.name


def test_tuples_are_lists():
    assert checked_options(EVERY, {"spacing_mm": (1, 2)}) == {"spacing_mm": [1.0, 2.0]}


def test_a_config_that_is_no_mapping_is_told(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.yaml").write_text("[1, 2]")
    with pytest.raises(InputError, match=r"configs/inference\.yaml: no mapping"):
        RunFolder(tmp_path).text("inference")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("batch_size=0", "0 is not a whole number from 1 on; the default is 32"),
        ("image_size=0", "0 is not a whole number from 16 to 4096; the default is 64"),
        ("epochs=0", "0 is not a whole number from 1 on; the default is 20"),
        ("steps_per_epoch=0", "0 is not a whole number from 1 on; the default is 50"),
        ("validate_every=0", "0 is not a whole number from 1 on; the default is 4"),
        ("accumulation_steps=0", "0 is not a whole number from 1 on; the default is 1"),
        ("patience=0", "0 is not a whole number from 1 on or null; the default is null"),
        ("workers=-1", "-1 is not a whole number from 0 to 1024; the default is 0"),
        ("seed=-1", "-1 is not a whole number from 0 to 4294967295; the default is 0"),
        ("learning_rate=-1", "-1 is not a number from 0 on; the default is 0.001"),
        ("spacing_mm=4", "4 is not a list of 2 numbers above 0 or null; the default is null"),
        ("spacing_mm=[4]", "[4] is not a list of 2 numbers above 0 or null; the default is null"),
        ("spacing_mm=[0, 0]", "[0, 0] is not a list of 2 numbers above 0 or null; the default is null"),
        ("test_scales=0.9", "0.9 is not a list of numbers from 0.5 to 2; the default is []"),
        ("test_shift=-1", "-1 is not a whole number from 0 to 4096; the default is 0"),
        ("epoch=1", "no such option; did you mean epochs? `ragsam train --options` lists them"),
        ("lora.rank=0", "0 is not a whole number from 1 on"),
        ("lora.rank=x", "'x' is not a whole number from 1 on"),
        ("lora.rnak=1", "no such entry; known are rank, alpha, dropout, targets, blocks"),
        ("lora.alpha=-1", "-1 is not a number above 0 or null"),
        ("lora={rank: -3}", "rank: a whole number from 1 on is needed, got -3"),
        ("frequency.reduction=0", "0 is not a whole number from 1 on"),
        ("frequency.rate=1", "1 is not a number from 0 to below 1"),
        ("adapter.depth=3", "3 is not true or false"),
    ],
)
def test_every_option_out_of_its_range_is_one_line(text, line):
    name, value = parse_option(text)
    with pytest.raises(InputError) as error:
        checked_options((find_bundle("sam_lora") / "configs" / "train.yaml").read_text(), {name: value})
    assert str(error.value) == f"--set {name}: {line}"
