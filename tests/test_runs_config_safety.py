"""Configs are read as data: what the packaged bundles do passes, what could run code is told, and never run."""

import os
import shutil
from importlib import resources
from pathlib import Path

import pytest
import yaml

from ragsam.api.verify import verify_bundle
from ragsam.runs.config_safety import code_faults
from ragsam.runs.expression_safety import expression_fault
from ragsam.runs.templates import find_bundle

BUNDLES = sorted(path.parent.name for path in Path(str(resources.files("ragsam.bundles"))).glob("*/configs"))
#: Would be written by a config that ran.
MARK = "/tmp/ragsam-config-has-run"


@pytest.fixture
def bundle(tmp_path):
    return shutil.copytree(find_bundle("sam_lora"), tmp_path / "bundle")


def changed(bundle, change, config="inference"):
    path = bundle / "configs" / f"{config}.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return code_faults(bundle)


@pytest.mark.parametrize("name", BUNDLES)
def test_packaged_bundles_are_sound(name):
    assert code_faults(find_bundle(name)) == []


def test_a_run_with_its_knobs_set_is_sound(run):
    assert code_faults(run) == []


@pytest.mark.parametrize(
    "text",
    [
        f"__import__('os').system('touch {MARK}')",
        "().__class__.__mro__[1].__subclasses__()",
        "@network.__class__",
        "open('/etc/passwd').read()",
        "eval('1')",
        "torch.load('x')",
        "torch.hub.load('a', 'b')",
        "torch.os.system('id')",
        "torch.load",
        "monai.bundle.run()",
        "np.load('x', allow_pickle=True)",
        "numpy.os",
        "(lambda: 1)()",
        "f'{@network}'",
        "[load_card for load_card in [1]]",
        "[x for x in [torch]]",
        "(torch := 1)",
        "9 ** 9 ** 9",
        "@network.load_state_dict({})",
        "@x.run.__globals__['os']",
        "list(@x)[0].__init__",
        "getattr(@x, 'a')",
        "import os",
        "from os import system",
        "@##x",
        "1; 2",
        "",
        "(" * 5000,
        # Where MONAI replaces an @ inside of a text, its quotes may end that text.
        f"'@' + __import__('os').system('touch {MARK}') + '@'",
        "'@'+open('/etc/passwd')+'@'",
    ],
)
def test_expressions_that_could_do_anything_are_refused(text):
    assert expression_fault(text)


@pytest.mark.parametrize(
    "text",
    [
        "@bundle_root + '/models/model.safetensors'",
        "@train#trainer#max_epochs * 10 + 1",
        "torch.device('cuda:1' if torch.cuda.is_available() else 'cpu')",
        "[p for p in @network.parameters() if p.requires_grad]",
        "@network_def.to(@device)",
        "[(@card_def.labels[a], 1) for a, b in @card_def.left_right]",
        "None",
        "not @a or @b is None",
        "list(range_) if False else {'a': [1, -2]}['a'][0:1]".replace("range_", "@x"),
    ],
)
def test_expressions_that_put_values_together_pass(text):
    assert expression_fault(text) is None


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("extra", {"_target_": "os.system", "command": f"touch {MARK}"}, "_target_ os.system is nothing"),
        ("extra", {"_target_": "monai.utils.run_cmd"}, "_target_ monai.utils.run_cmd"),
        ("extra", {"_target_": "torch.nn.modules"}, "_target_ torch.nn.modules"),
        ("extra", {"_target_": "torch.optim.lr_scheduler.types.FunctionType"}, "_target_ torch.optim"),
        ("extra", {"_target_": "$__import__('os').system"}, "_target_ $__import__"),
        ("extra", {"_target_": ["os.system"]}, "_target_ ['os.system']"),
        ("extra", {"_target_": "ragsam.retrieval.Retriever", "_mode_": "debug"}, "_mode_ debug"),
        ("device", f"$__import__('os').system('touch {MARK}')", "a call of __import__('os').system"),
        ("imports", ["$import os"], "$import os"),
        ("extra", "%/tmp/other.yaml::x", "includes another file"),
        ("extra", [{"deep": [{"_target_": "builtins.exec"}]}], "extra#0#deep#0: _target_ builtins.exec"),
        ("extra", {"$open('x')": 1}, "$open('x')"),
    ],
)
def test_a_config_that_would_run_something_else_is_told_with_its_place(bundle, place, value, told):
    faults = changed(bundle, lambda content: content.update({place: value}))
    assert all(fault.startswith(f"configs/inference.yaml: {place}") for fault in faults)
    assert any(told in fault for fault in faults)
    assert not os.path.exists(MARK)


def test_parts_that_only_compute_may_be_named(bundle):
    loss = {"_target_": "monai.losses.DiceCELoss", "softmax": True}
    assert changed(bundle, lambda content: content.update(loss=loss), "train") == []


def test_every_config_of_the_folder_is_read_json_and_metadata_too(bundle):
    (bundle / "configs" / "inference.json").write_text('{"a": "$open(\'x\')"}')  # MONAI Label prefers it
    (bundle / "configs" / "deep").mkdir()
    (bundle / "configs" / "deep" / "other.YML").write_text("a: {_target_: os.system}")
    metadata = bundle / "configs" / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"Segmentation of', '"$exit() Segmentation of'))
    assert [fault.split(":")[0] for fault in code_faults(bundle)] == [
        "configs/deep/other.YML",
        "configs/inference.json",
        "configs/metadata.json",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch " + MARK + "']",
        "a: &x [1]\nb: [*x, *x]",
        "a: [",
        "x" * (1 << 20) + "x",
        "[" * 2000 + "]" * 2000,
    ],
    ids=["tag", "alias", "broken", "large", "deep"],
)
def test_yaml_that_is_no_plain_data_is_one_line(bundle, text):
    (bundle / "configs" / "inference.yaml").write_text(text)
    (fault,) = code_faults(bundle)
    assert fault.startswith("configs/inference.yaml: ")
    assert "\n" not in fault
    assert not os.path.exists(MARK)


def test_code_beside_the_configs_links_and_another_logging_conf_are_told(bundle, tmp_path):
    (bundle / "torch.py").write_text("raise SystemExit")
    (bundle / "monai").mkdir()
    (bundle / "monai" / "__init__.pyc").write_bytes(b"")
    os.symlink("/etc/hostname", bundle / "docs" / "host")
    os.symlink(bundle / "LICENSE", bundle / "docs" / "licence")  # stays inside
    conf = bundle / "configs" / "logging.conf"
    conf.write_text(conf.read_text().replace("args=(sys.stderr,)", f"args=(__import__('os').system('touch {MARK}'),)"))
    assert [fault.split(":")[0] for fault in code_faults(bundle)] == [
        "docs/host",
        "monai/__init__.pyc",
        "torch.py",
        "configs/logging.conf",
    ]


def test_a_part_named_by_its_place_in_another_config_is_looked_at(bundle):
    overlay = bundle / "configs" / "multi_gpu_evaluate.yaml"
    overlay.write_text(overlay.read_text().replace("ragsam.bundle.GatheredRetrieval", "os.system"))
    (fault,) = code_faults(bundle)
    assert fault.startswith("configs/multi_gpu_evaluate.yaml: top: _target_ os.system is nothing")


def test_configs_of_the_first_layout_are_sound(bundle):
    """As runs that were made with it have them."""
    names = {
        "ragsam.bundle.VolumeDataset": "ragsam.data.volumes.VolumeDataset",
        "ragsam.bundle.WeightsLoader": "ragsam.workflows.checkpoint_handler.WeightsLoader",
        "from ragsam.bundle import load_card": "from ragsam.data.cards import load_card",
        "from ragsam.bundle import load_datalist": "from ragsam.data.datalist import load_datalist",
    }
    config = bundle / "configs" / "inference.yaml"
    text = config.read_text()
    for new, old in names.items():
        assert new in text
        text = text.replace(new, old)
    config.write_text(text)
    assert code_faults(bundle) == []
    config.write_text(text.replace("checkpoint_handler.WeightsLoader", "checkpoint_handler.Path"))
    assert len(code_faults(bundle)) == 1


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("weights", "/home/jane/model.safetensors"),
        ("bank", "../bank"),
        ("card", "$@bundle_root + '/../card.yaml'"),
        ("ensemble", ["/home/jane/run"]),
        ("ensemble", ["$'/home' + '/jane'"]),
        ("bank", "$'.' + './bank'"),
        ("extra", [{"path": "C:\\\\bank"}]),
    ],
)
def test_what_a_config_loads_lies_in_the_bundle(bundle, place, value):
    (fault,) = changed(bundle, lambda content: content.update({place: value}))
    assert fault.startswith(f"configs/inference.yaml: {place}")
    assert "leads out of the bundle" in fault


def test_what_a_run_was_trained_on_and_where_it_writes_may_lie_elsewhere(bundle):
    def own(content):
        content |= {"datalist": "/data/list.json", "base": "/weights/sam.pth", "output_dir": "../out"}
        content["bank"] = "$@bundle_root + '/banks/second'"

    assert changed(bundle, own) == []


def test_bundles_within_a_bundle_are_read_too_and_pipes_are_told(bundle):
    inner = bundle / "docs" / "inner" / "configs"
    inner.mkdir(parents=True)
    (inner / "inference.yaml").write_text("a: $exit()")
    os.mkfifo(bundle / "configs" / "train.json")  # reading it would wait for ever
    assert [fault.split(":")[0] for fault in code_faults(bundle)] == [
        "configs/train.json",
        "docs/inner/configs/inference.yaml",
    ]


def _inner(bundle, folder="docs/inner", name="inference.yaml"):
    """Put a config that would run code into a folder of a bundle."""
    path = bundle / folder / "configs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"weights: $__import__('os').system('touch {MARK}')\n")
    return path


def _replaced(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _named(bundle, *values, key="ensemble"):
    config = bundle / "configs" / "inference.yaml"
    content = yaml.safe_load(config.read_text())
    content[key] = list(values) if key == "ensemble" else values[0]
    config.write_text(yaml.safe_dump(content, sort_keys=False))


def _member_of_a_member(bundle):
    shutil.copytree(bundle, bundle.parent / "second")
    shutil.move(bundle.parent / "second", bundle / "docs" / "second")
    _inner(bundle, "docs/second/docs/third")
    _named(bundle / "docs" / "second", "$@bundle_root + '/docs/third'")
    _named(bundle, "$@bundle_root + '/docs/second'")
    return "docs/second/docs/third/configs/inference.yaml"


def _linked_folder(bundle):
    (bundle / "docs" / "hidden").mkdir()
    _inner(bundle).rename(bundle / "docs" / "hidden" / "inference.yaml")
    (bundle / "docs" / "inner" / "configs").rmdir()
    os.symlink("../hidden", bundle / "docs" / "inner" / "configs")
    _named(bundle, "$@bundle_root + '/docs/inner'")
    return "docs/inner/configs"


def _linked_file(bundle):
    config = _inner(bundle)
    config.rename(bundle / "docs" / "README.txt")
    os.symlink("../../README.txt", config)
    return "docs/inner/configs/inference.yaml"


def _linked_out(bundle):
    os.symlink(_inner(bundle.parent, "beside").parents[1], bundle / "docs" / "inner")
    return "docs/inner"


def _another_writing_of_configs(bundle):
    """Which a file system may take for the same folder."""
    _inner(bundle).parent.rename(bundle / "docs" / "inner" / "Configs")
    return "docs/inner/Configs/inference.yaml"


def _hidden_folder(bundle):
    return _inner(bundle, ".inner").relative_to(bundle).as_posix()


def _above(bundle):
    _named(bundle, "../beside")
    return "configs/inference.yaml: ensemble#0"


def _absolute(bundle):
    _named(bundle, str(bundle.parent / "beside"))
    return "configs/inference.yaml: ensemble#0"


def _by_the_place_of_the_data(bundle):
    """The data may lie anywhere; what is loaded may not, by no name."""
    _named(bundle, str(bundle.parent), key="dataset_dir")
    _named(bundle, "@dataset_dir")
    return "configs/inference.yaml: ensemble#0"


def _in_the_wiring_by_the_place_of_the_data(bundle):
    _replaced(bundle / "configs" / "inference.yaml", "runs: '@ensemble'", "runs: [$@dataset_dir + '/beside']")
    return "configs/inference.yaml: handlers#2#runs#0"


def _bank_by_a_base(bundle):
    _named(bundle, "@base", key="bank")
    return "configs/inference.yaml: bank"


def _overlay(bundle):
    path = bundle / "configs" / "multi_gpu_train.yaml"
    path.write_text(path.read_text() + f"\nextra: $__import__('os').system('touch {MARK}')\n")
    return "configs/multi_gpu_train.yaml: extra"


def _required(bundle):
    _named(bundle, "$exit()", key="_requires_")
    return "configs/inference.yaml: _requires_"


def _import_of_the_bundle(bundle):
    _named(bundle, ["$import docs.evil"], key="imports")
    return "configs/inference.yaml: imports#0"


def _macro(bundle):
    (bundle / "docs" / "x.yaml").write_text("a: $exit()")
    _named(bundle, "%docs/x.yaml::a", key="window")
    return "configs/inference.yaml: window"


def _metadata(bundle):
    path = bundle / "configs" / "metadata.json"
    _replaced(path, '"spatial_shape": [', f"\"spatial_shape\": [\"$__import__('os').system('touch {MARK}')\", ")
    return "configs/metadata.json: network_data_format#"


def _fetched_code(bundle):
    """A loss whose network's code PyTorch would take from a folder of the bundle."""
    loss = {"_target_": "monai.losses.PerceptualLoss", "spatial_dims": 2, "cache_dir": "$@bundle_root + '/docs'"}
    _named(bundle, loss, key="loss")
    return "configs/inference.yaml: loss"


def _logging_of_a_member(bundle):
    """Python evaluates `class` and `args` of such a file."""
    _inner(bundle).write_text("a: 1")
    conf = bundle / "configs" / "logging.conf"
    other = bundle / "docs" / "inner" / "configs" / "logging.conf"
    other.write_text(conf.read_text().replace("class=StreamHandler", f"class=os.system('touch {MARK}')"))
    return "docs/inner/configs/logging.conf"


ATTACKS = [
    *(_member_of_a_member, _linked_folder, _linked_file, _linked_out, _another_writing_of_configs, _hidden_folder),
    *(_above, _absolute, _by_the_place_of_the_data, _in_the_wiring_by_the_place_of_the_data, _bank_by_a_base),
    *(_overlay, _required, _import_of_the_bundle, _macro, _metadata, _fetched_code, _logging_of_a_member),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__.strip("_"))
def test_what_a_bundle_hides_is_told_and_nothing_of_it_runs(bundle, attack):
    place = attack(bundle)
    found = verify_bundle(bundle)
    assert any(fault.startswith(place) for fault in found.faults), found.faults
    assert found.left_out == ["everything that runs it: what was found has to be mended first"]
    assert not os.path.exists(MARK)


def test_the_cases_of_an_earlier_config_may_lie_elsewhere(bundle):
    cases = "$load_datalist(@datalist).section(@section)"
    assert changed(bundle, lambda content: content.update(cases=cases, datalist="/data/list.json")) == []
