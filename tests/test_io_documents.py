"""JSON and YAML read back: plain data or one line that names the place, whatever was done to the file."""

import json

import pytest

from ragsam.errors import InputError
from ragsam.io.documents import check_schema, parse_yaml, read_json

SCHEMA = {
    "type": "object",
    "required": ["cases"],
    "properties": {
        "cases": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["dice"],
                "properties": {"dice": {"type": "object", "additionalProperties": {"type": "number", "maximum": 1}}},
            },
        },
        "count": {"type": "integer", "minimum": 1},
        "pair": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number", "exclusiveMinimum": 0}},
        "how": {"enum": ["a", "b", None]},
        "known": {"type": "object", "additionalProperties": False, "properties": {"x": {}}},
    },
}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ([], "an object is needed, got []"),
        ({}, "cases is missing"),
        ({"cases": [{"dice": {}}, {}]}, "cases[1]: dice is missing"),
        ({"cases": [{"dice": {"liver": "x"}}]}, 'cases[0].dice.liver: a number, at most 1 is needed, got "x"'),
        ({"cases": [{"dice": {"liver": True}}]}, "cases[0].dice.liver: a number, at most 1 is needed, got true"),
        ({"cases": [{"dice": {"liver": 1.5}}]}, "cases[0].dice.liver: a number, at most 1 is needed, got 1.5"),
        ({"cases": [], "count": 1.0}, "count: a whole number from 1 on is needed, got 1.0"),
        ({"cases": [], "pair": [1]}, "pair: a list of 2 numbers above 0 is needed, got [1]"),
        ({"cases": [], "pair": [1, 0]}, "pair[1]: a number above 0 is needed, got 0"),
        ({"cases": [], "how": "c"}, 'how: one of a, b, null is needed, got "c"'),
        ({"cases": [], "known": {"y": 1}}, "known: y is unknown; known are x"),
    ],
)
def test_a_wrong_field_is_named_by_its_place(tmp_path, content, line):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        read_json(path, SCHEMA)
    assert str(caught.value) == f"{path}: {line}; repair the file or make it again"


def test_what_keeps_the_schema_is_read_as_it_is(tmp_path):
    content = {"cases": [{"dice": {"größe": 1, "b": 0.5}}], "count": 3, "pair": [0.1, 2], "how": None}
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())  # as an editor on Windows saves it
    assert read_json(path, SCHEMA) == content
    check_schema(content, SCHEMA, "a")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"a": NaN}', "not valid JSON (NaN is not a JSON number)"),
        ('{"a": [1, -Infinity]}', "not valid JSON (-Infinity is not a JSON number"),
        ('{"a": [0, 1e999]}', "a[1]: a number that is too large or none"),
        (f'{{"a": {10**30}}}', "a: a number that is too large"),
        (f'{{"a": {"9" * 5000}}}', "not valid JSON (Exceeds the limit"),
        ('{"a": {"b": "\\ud800"}}', "a.b: a text with half a character"),
        ('{"\\udc00": 1}', "\\udc00: a text with half a character"),
        ('{"a": 1, "b": 2, "a": 3}', "not valid JSON ('a' occurs twice)"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 60 + "1" + "}" * 60, f"{'.'.join('a' * 50)}: nested more than 50 deep"),
        ("", "not valid JSON (Expecting value"),
        ("\xff", "not valid JSON ("),
    ],
)
def test_json_that_is_no_plain_data_is_told(tmp_path, text, line):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: {line}")
    assert "\n" not in str(caught.value)


def test_emoji_written_as_two_halves_is_one_character(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json(path) == {"a": "\U0001f600"}


def test_dates_of_yaml_are_texts():
    text = "day: 2024-01-31\ntime: 2024-01-31 10:00:00\nnumber: 3\nlist: [1.5, yes, null]\n"
    expected = {"day": "2024-01-31", "time": "2024-01-31 10:00:00", "number": 3, "list": [1.5, True, None]}
    assert parse_yaml(text, "card") == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: .nan", "a: a number that is too large or none"),
        ("a: [.inf]", "a[0]: a number that is too large or none"),
        ("a: 1\nb: 2\na: 3", "not valid YAML ('a' occurs twice, line 1 and below)"),
        ("a: &x [1]\nb: *x", "not valid YAML (an alias in line 2: write it out)"),
        ("a: &x [*x]", "not valid YAML (an alias in line 1"),
        ("[" * 10_000, "nested too deeply"),
        ("a: !!binary aGVsbG8=", "a: a bytes, which is not taken"),
        ("a: !!set {b}", "a: a set, which is not taken"),
        ("a: !!timestamp 2024-99-99", "not valid YAML ("),
        ("a: !!int x", "not valid YAML ("),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML (could not determine a constructor"),
        ('a: "\\ud800"', "not valid YAML ("),
        ("a: [1", "not valid YAML ("),
        ("x" * 2_000_000, "more than the 1 MB"),
    ],
    ids=lambda value: value[:20],
)
def test_yaml_that_is_no_plain_data_is_told(text, line):
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "card my.yaml")
    assert str(caught.value).startswith(f"card my.yaml: {line}")
    assert "\n" not in str(caught.value)
