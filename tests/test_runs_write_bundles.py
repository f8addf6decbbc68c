"""The public bundles are what the template and the options make; one more option touches nothing else."""

from pathlib import Path
from types import NoneType

import pytest
import yaml

from ragsam.cli import main
from ragsam.errors import InputError
from ragsam.runs import option_list, settings, write_bundles
from ragsam.runs.option_list import option_lines, option_page, packaged_lines
from ragsam.runs.options import GROUPS, OPTIONS, Option, untrained_network
from ragsam.runs.settings import as_yaml, checked_options, read_options
from ragsam.runs.templates import CONFIGS, find_bundle

ROOT = Path(__file__).parents[1]
BUNDLES = ("sam_lora", "sam_adapter", "sam_frequency")


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bundles_and_reference_page_are_what_the_command_writes(tmp_path):
    write_bundles.write_bundles(tmp_path / "bundles", tmp_path / "docs")
    assert sorted(path.name for path in (tmp_path / "bundles").iterdir()) == sorted(BUNDLES)
    for name in BUNDLES:
        assert files_of(tmp_path / "bundles" / name) == files_of(ROOT / "bundles" / name), "run `make bundles`"
    assert (tmp_path / "docs" / "options.md").read_bytes() == (ROOT / "docs" / "reference" / "options.md").read_bytes()


def test_every_option_stands_in_a_config_with_its_default_and_its_line():
    texts = {name: (find_bundle("sam_lora") / "configs" / f"{name}.yaml").read_text() for name in CONFIGS}
    found = {name: value for text in reversed(texts.values()) for name, value in read_options(text).items()}
    own = {"lora": {"rank": 4, "targets": ["q", "v"]}, "card": found["card"]}  # training finds a card by `dataset` too
    own["untrained"] = untrained_network(found)
    assert found == {name: option.default for name, option in OPTIONS.items()} | own
    for option in OPTIONS.values():
        assert any(f"  # {option.line}\n" in text for text in texts.values())
        assert option.line[-1] != "."


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_a_default_is_of_its_options_type(option):
    text = f"{option.name}: {as_yaml(option.default)}\n"
    assert checked_options(text, {option.name: option.default}) == {option.name: option.default}
    if NoneType in option.kinds:
        assert checked_options(text, {option.name: None}) == {option.name: None}
    else:
        with pytest.raises(InputError, match="None is not"):
            checked_options(text, {option.name: None})


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("spacing_mm", 1.5, "a list of 2 numbers above 0 or null"),
        ("class_weights", [1, "x"], "a list of numbers from 0 on or null"),
        ("peft", 3, "a text or a list of texts or null"),
        ("patience", 2.5, "a whole number from 1 on or null"),
        ("lora", [1], "an object or null"),
    ],
)
def test_values_of_other_types_are_told_apart(name, value, wanted):
    with pytest.raises(InputError, match=f"--set {name}: .* is not {wanted}; the default is "):
        checked_options(f"{name}: null\n", {name: value})


def test_one_more_option_touches_its_declaration_alone(monkeypatch, tmp_path):
    more = Option("wobble", (float, NoneType), 0.25, "slices that wobble", "", ("VolumeInferer.wobbling",), "Slices")
    options = {**OPTIONS, "wobble": more}
    for module in (write_bundles, settings, option_list):
        monkeypatch.setattr(module, "OPTIONS", options)
    write_bundles.write_bundles(tmp_path / "bundles", tmp_path / "docs")
    for bundle in BUNDLES:
        texts = {name: (tmp_path / "bundles" / bundle / "configs" / f"{name}.yaml").read_text() for name in CONFIGS}
        for name, text in texts.items():
            config = yaml.safe_load(text)
            assert "wobble: 0.25  # slices that wobble\n" in text
            inferer = config["validate"]["inferer"] if name == "train" else config["inferer"]
            assert inferer["wobbling"] == "@wobble"
        assert checked_options(texts["train"], {"wobble": "1e-1"}) == {"wobble": 0.1}
    assert "  wobble " in "\n".join(option_lines({"wobble": 0.25}))
    assert (
        "| `wobble` | float or null | `0.25` | slices that wobble |" in (tmp_path / "docs" / "options.md").read_text()
    )


def test_options_are_listed_by_group_experts_last():
    lines = option_lines(read_options((find_bundle("sam_lora") / "configs" / "train.yaml").read_text()))
    groups = [line for line in lines if line and not line.startswith(" ")]
    assert groups == [group.__doc__.removesuffix(".") for group in GROUPS]
    assert groups[-1] == "For experts"
    (line,) = (line for line in lines if line.startswith("  learning_rate "))
    assert line.split(maxsplit=3) == ["learning_rate", "float", "0.001", OPTIONS["learning_rate"].line]
    assert not any(line.startswith("  output_dir ") for line in lines)  # of segmenting


def test_one_option_is_told_in_full():
    defaults = {"image_size": 32, "lora": {"rank": 2}}
    lines = option_page("image_size", defaults)
    assert lines[:3] == [f"image_size: {OPTIONS['image_size'].line}", "type: int", "default: 32"]
    assert "SliceDataset" in lines[4]
    assert lines[5] == OPTIONS["image_size"].text
    assert option_page("lora", defaults)[1:3] == ["type: dict or null", "default: {rank: 2}"]
    with pytest.raises(InputError, match=r"--options image_sise: no such option; did you mean image_size\?"):
        option_page("image_sise", defaults)


@pytest.mark.parametrize("arguments", [["--options"], ["sam_lora", "--options"]])
def test_command_lists_the_options_without_data_or_output(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", *arguments])
    assert not ended.value.code
    assert capsys.readouterr().out == "\n".join(packaged_lines()) + "\n"


def test_command_tells_one_option_and_the_nearest_of_a_name_that_is_none(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--options", "neighbours"])
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("neighbours: slices of other patients")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--options", "neighbors"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("ragsam: --options neighbors: no such option; did you mean neighbours?")
