# SPDX-License-Identifier: Apache-2.0
"""The table of parameters: what it allows, and that the files made from it are up to date."""

import array
import math
from pathlib import Path

import pytest
import yaml

from ledpose_ros.errors import LedposeError
from ledpose_ros.parameters import (
    LAUNCH_ARGUMENTS,
    NODE_PARAMETERS,
    Parameter,
    generated_files,
    main,
    markdown_table,
    with_table,
    yaml_text,
)

ROOT = Path(__file__).resolve().parent.parent
TABLE = [(node, parameter) for node, table in NODE_PARAMETERS.items() for parameter in table]

FLAG = Parameter("flag", True, "")
COUNT = Parameter("count", 3, "", minimum=1, maximum=5)
AGE = Parameter("age", 0.5, "", minimum=0.0)
ANGLE = Parameter("angle", 0.0, "")
MODE = Parameter("mode", "raw", "", choices=("raw", "compressed"))
SIZE = Parameter("size", [0.3, 0.2], "", minimum=0.01)
NAMES = Parameter("names", ["a", "b"], "")


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (FLAG, False),
        (COUNT, 1),
        (COUNT, 5),
        (AGE, 0.0),
        (ANGLE, -1e9),
        (MODE, "compressed"),
        (SIZE, [1.0, 2.0, 3.0]),
        (SIZE, array.array("d", [1.0, 2.0])),
        (NAMES, ["x"]),
    ],
)
def test_allowed_values(parameter, value):
    parameter.check(value)


@pytest.mark.parametrize(
    ("parameter", "value", "words"),
    [
        (FLAG, 1, "must be of type bool, like True, but is 1"),
        (COUNT, 0, "'count' is 0, but must be 1 to 5"),
        (COUNT, 6, "'count' is 6, but must be 1 to 5"),
        (COUNT, 2.0, "type integer"),
        (COUNT, True, "type integer"),
        (AGE, -0.1, "at least 0"),
        (AGE, math.nan, "'age' is nan"),
        (AGE, math.inf, "'age' is inf"),
        (AGE, 1, "type double"),
        (ANGLE, math.nan, "must be finite"),
        (MODE, "jpeg", "'jpeg', but must be one of raw, compressed"),
        (SIZE, [0.3, 0.0], "'size' is 0.0"),
        (SIZE, 0.3, "type double_array"),
        (SIZE, ["0.3"], "type double_array"),
        (NAMES, "ab", "type string_array"),
        (NAMES, None, "type string_array"),
    ],
)
def test_refused_values(parameter, value, words):
    with pytest.raises(LedposeError, match=words):
        parameter.check(value)


@pytest.mark.parametrize(
    ("parameter", "text", "value"),
    [
        (FLAG, "False", False),
        (FLAG, "true", True),
        (COUNT, "4", 4),
        (ANGLE, "-1", -1.0),
        (MODE, "raw", "raw"),
        (SIZE, "0.1,2", [0.1, 2.0]),
        (SIZE, "[0.1, 2]", [0.1, 2.0]),
        (NAMES, "/a, 7", ["/a", "7"]),
        (NAMES, "a", ["a"]),
    ],
)
def test_texts_of_values(parameter, text, value):
    assert parameter.parse(text) == value


@pytest.mark.parametrize(
    ("parameter", "text", "words"),
    [
        (FLAG, "maybe", "type bool, like True, but is 'maybe'"),
        (COUNT, "4.0", "type integer, like 3, but is '4.0'"),
        (COUNT, "9", "'count' is 9, but must be 1 to 5"),
        (ANGLE, "", "type double, like 0.0, but is ''"),
        (MODE, "jpeg", "one of raw, compressed"),
        (SIZE, "0.1,b", "type double_array"),
        (SIZE, "0.1,-1", "'size' is -1.0"),
    ],
)
def test_texts_that_are_refused(parameter, text, words):
    with pytest.raises(LedposeError, match=words):
        parameter.parse(text)


def test_launch_arguments_are_parameters():
    assert LAUNCH_ARGUMENTS.keys() <= NODE_PARAMETERS.keys()
    for node, names in LAUNCH_ARGUMENTS.items():
        assert set(names) <= {parameter.name for parameter in NODE_PARAMETERS[node]}
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(("node", "parameter"), TABLE, ids=[f"{node}.{entry.name}" for node, entry in TABLE])
def test_table_is_sound(node, parameter):
    parameter.check(parameter.default)
    assert parameter.description.endswith((".", "]"))
    names = [entry.name for entry in NODE_PARAMETERS[node]]
    assert names.count(parameter.name) == 1


@pytest.mark.parametrize("node", NODE_PARAMETERS)
def test_yaml_holds_the_defaults(node):
    content = yaml.safe_load(yaml_text(node))
    expected = {parameter.name: parameter.default for parameter in NODE_PARAMETERS[node]}
    assert content == {f"/**/{node}": {"ros__parameters": expected}}


@pytest.mark.parametrize(("path", "text"), generated_files(ROOT).items(), ids=generated_files(ROOT))
def test_generated_files_are_up_to_date(path, text):
    assert (ROOT / path).read_text(encoding="utf-8") == text, (
        "run: python -m ledpose_ros.parameters --write ."
    )


def test_a_page_keeps_all_but_its_table():
    page = (ROOT / "docs" / "recorder.md").read_text(encoding="utf-8")
    table = markdown_table("recorder")
    assert page.count(table) == 1
    assert with_table(page.replace(table, "| stale |\n"), "recorder") == page


def test_a_page_without_a_place_for_its_table_is_refused():
    with pytest.raises(LedposeError, match=r"docs/recorder\.md needs the lines"):
        with_table("# The recorder node\n", "recorder")


def test_command_line_prints_and_writes(tmp_path, capsys):
    main(["--yaml", "estimator"])
    assert capsys.readouterr().out == yaml_text("estimator")
    main(["--markdown", "estimator"])
    assert capsys.readouterr().out == markdown_table("estimator")
    for folder in ("config", "docs"):
        (tmp_path / folder).mkdir()
    for path in generated_files(ROOT):
        if path.endswith(".md"):
            page = (ROOT / path).read_text(encoding="utf-8")
            (tmp_path / path).write_text(page.replace("| no |", "| |"), encoding="utf-8")
    main(["--write", str(tmp_path)])
    written = {path: (tmp_path / path).read_text(encoding="utf-8") for path in generated_files(ROOT)}
    assert written == generated_files(ROOT)
