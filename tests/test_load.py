"""load: what is read, what is refused, where and in which words."""

from __future__ import annotations

import itertools
import json
import os
import re
import tempfile
import tracemalloc
import unicodedata
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import jsonschema
import pytest
import yaml
from annotated_types import Ge, MinLen
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator import schemas
from orchestrator.cases import Case
from orchestrator.cluster import Cluster
from orchestrator.configs import DeviceConfig
from orchestrator.errors import ConfigError, Problem
from orchestrator.load import load, nodes, read_stored
from orchestrator.load.nodes import MAX_DEPTH, MAX_VALUES, compose, plain
from orchestrator.load.source import MAX_BYTES, MAX_PROBLEMS, read_source
from orchestrator.suites import Suite
from orchestrator.vendors import Vendor

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
SAMPLES = Path(__file__).parent / "data" / "config"
KINDS: dict[str, type] = {
    "cluster": Cluster,
    "vendor": Vendor,
    "case": Case,
    "device": DeviceConfig,
    "suite": Suite,
}
GLOBS = {
    "cluster": "cluster/*.yaml",
    "vendor": "dockerfiles/*/vendor.yaml",
    "case": "cases/*/case.yaml",
    "device": "cases/*/configs/*.yaml",
    "suite": "cases/suites/*.yaml",
}
SHIPPED = [
    pytest.param(path, noun, id=str(path.relative_to(ROOT)))
    for noun, glob in GLOBS.items()
    for path in sorted(ROOT.glob(glob))
]

CLUSTER = """\
schema: 1
description: two ranks
vendor: cpu
device: cpu
transport: local
devices_per_node: 2
nodes:
  - name: localhost
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """Asks for one value of each type."""

    text: str | None = None
    number: float | None = None
    count: int | None = None
    flag: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    kind: Literal["local"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh:
    kind: Literal["ssh"]
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosy:
    """Unions, which pydantic reports once for each alternative."""

    way: Local | Ssh | None = None
    size: int | Literal["auto"] = "auto"
    names: str | Annotated[tuple[str, ...], MinLen(2)] = ""
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    run_id: str
    world_size: Annotated[int, Ge(1)]
    steps: tuple[float, ...] = ()


def written(folder: Path, content: str | bytes, name: str = "x.yaml") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def problems_of(folder: Path, content: str | bytes, kind: type = Cluster) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load(written(folder, content), kind, shown_as="x.yaml")
    return caught.value.problems


def unseen(message: str) -> set[str]:
    """The characters of a message that could move a cursor, turn text around or hide."""
    unsafe = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return {char for char in message if unicodedata.category(char) in unsafe} - {"\n"}


def only_problem(folder: Path, content: str | bytes, kind: type = Cluster) -> Problem:
    problems = problems_of(folder, content, kind)
    assert len(problems) == 1, "\n".join(map(str, problems))
    return problems[0]


# Values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "noun"), SHIPPED)
def test_every_shipped_file_is_read_into_its_own_dataclass(path: Path, noun: str) -> None:
    assert type(load(path, KINDS[noun])) is KINDS[noun]


def test_every_noun_ships_a_file() -> None:
    assert {param.values[1] for param in SHIPPED} == set(KINDS)


def test_lists_become_tuples_and_what_is_left_out_its_default(tmp_path: Path) -> None:
    value = load(written(tmp_path, CLUSTER), Cluster)
    assert [node.name for node in value.nodes] == ["localhost"]
    assert isinstance(value.nodes, tuple)
    assert value.data_dir == "results/data"


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("~", "text", None),
        ("null", "text", None),
        ("Null", "text", None),
        ("", "text", None),
        ("'~'", "text", "~"),
        ('""', "text", ""),
        ("no", "text", "no"),
        ("Yes", "text", "Yes"),
        ("on", "text", "on"),
        ("y", "text", "y"),
        ("12:30", "text", "12:30"),
        ("2024-01-02", "text", "2024-01-02"),
        ("1_000", "text", "1_000"),
        ("0b101", "text", "0b101"),
        ("1.2.3", "text", "1.2.3"),
        ("1e", "text", "1e"),
        (".", "text", "."),
        ("+", "text", "+"),
        ("nUll", "text", "nUll"),
        ("=", "text", "="),
        ('"010"', "text", "010"),
        ("'true'", "text", "true"),
        ('"\\u00e9\\t"', "text", "é\t"),
        ("|\n  two\n  lines", "text", "two\nlines\n"),
        (">-\n  two\n  lines", "text", "two lines"),
        ("true", "flag", True),
        ("True", "flag", True),
        ("FALSE", "flag", False),
        ("0", "count", 0),
        ("-0", "count", 0),
        ("+8", "count", 8),
        ("-8", "count", -8),
        ("0x1F", "count", 31),
        ("9223372036854775807", "count", 2**63 - 1),
        ("3", "number", 3.0),
        ("1e-4", "number", 1e-4),
        ("1E+4", "number", 1e4),
        (".5", "number", 0.5),
        ("-5.", "number", -5.0),
        ("1e400 # beyond", "number", "E107"),
        (".inf", "number", "E107"),
        ("-.INF", "number", "E107"),
        (".NaN", "text", "E107"),
        ("010", "count", "E107"),
        ("-010", "count", "E107"),
        ("00", "count", "E107"),
        ("0o10", "count", "E107"),
        ("9223372036854775808", "count", "E107"),
        ("1" * 5000, "count", "E107"),
        ("yes", "flag", "E107"),
        ("off", "flag", "E107"),
        ("1_000", "count", "E107"),
        ("12:30", "count", "E107"),
        ("0b101", "count", "E107"),
        ("-0x1F", "count", "E107"),
        ("2024-01-02", "number", "E107"),
        ("4,096", "count", "E107"),
        ("eight", "count", "E108"),
        ('"8"', "count", "E108"),
        ("true", "count", "E108"),
        ("true", "number", "E108"),
        ("8.0", "count", "E108"),
        ("1", "flag", "E108"),
        ("'true'", "flag", "E108"),
        ("8", "text", "E108"),
        ("true", "text", "E108"),
        ("[a]", "text", "E108"),
        ("{a: b}", "number", "E108"),
        ('"\\0"', "text", "E108"),
        ('"\\e[2J"', "text", "E108"),
        ("!!str 8", "text", "E105"),
        ("! 8", "text", "E105"),
        ("!!python/object/apply:os.system [ls]", "text", "E105"),
        ("&a b", "text", "E105"),
        ("*a", "text", "E105"),
        ("[", "text", "E103"),
        ("@a", "text", "E103"),
        ('"\\q"', "text", "E103"),
        ('"\\uD800"', "text", "E103"),
        ("a: b", "text", "E103"),
    ],
)
def test_a_scalar_is_read_as_yaml_1_2_says_or_refused(
    tmp_path: Path, word: str, key: str, value: str | float | bool | None
) -> None:
    text = f"{key}: {word}\n"
    if isinstance(value, str) and re.fullmatch(r"E1\d\d", value):
        assert value in {problem.code for problem in problems_of(tmp_path, text, Free)}
    else:
        read = getattr(load(written(tmp_path, text), Free), key)
        assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("count: 010", 'write 10 or "010"'),
        ("count: -010", 'write -10 or "-010"'),
        ("count: 0o10", 'write 8 or "0o10"'),
        ("count: 12:30:00", "write 45000"),
        ("count: -1:30", "write -90"),
        ("count: 1_000", "write 1000"),
        ("count: 0b1_01", "write 5"),
        ("count: -0x1F", "write -31"),
        ("count: 4,096", "write 4096"),
        ("count: '8'", "write 8 without quotes"),
        ("count: 1e3", "write 1000"),
        ("number: 1_0.5", "write 10.5"),
        ("flag: no", "write false"),
        ("flag: Y", "write true"),
        ("flag: 'true'", "write true without quotes"),
        ("text: 8", 'quote it: "8"'),
        ("texd: a", "did you mean 'text'?"),
        ("TEXT: a", "did you mean 'text'?"),
        ("zzz: a", "known keys: text, number, count, flag"),
    ],
)
def test_the_help_says_what_to_write(tmp_path: Path, line: str, advice: str) -> None:
    problem = only_problem(tmp_path, line, Free)
    assert problem.help is not None
    assert problem.help.endswith(advice)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    text = CLUSTER.replace("\n", "\r\n").encode("utf-8")
    assert load(written(tmp_path, b"\xef\xbb\xbf" + text), Cluster).vendor == "cpu"


def test_lines_are_counted_the_same_with_every_line_end(tmp_path: Path) -> None:
    text = CLUSTER.replace("vendor", "vender")
    places = {
        end: (problem.line, problem.column, problem.excerpt)
        for end in ("\n", "\r\n", "\r")
        for problem in [only_problem(tmp_path, text.replace("\n", end))]
    }
    assert set(places.values()) == {(3, 1, "vender: cpu")}


# Messages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_problem_of_a_bad_file_is_said_in_these_words(sample: Path) -> None:
    """Each <kind>-<situation>.yaml has its text beside it; NX8_GOLDEN=1 writes it anew."""
    kind = KINDS[sample.stem.split("-")[0]]
    with pytest.raises(ConfigError) as caught:
        load(sample, kind, shown_as=sample.name)
    golden = sample.with_suffix(".txt")
    if os.environ.get("NX8_GOLDEN"):
        golden.write_text(f"{caught.value}\n", encoding="utf-8")
    assert f"{caught.value}\n" == golden.read_text(encoding="utf-8")


def test_there_are_samples_of_bad_files() -> None:
    assert len(list(SAMPLES.glob("*.yaml"))) >= 8


def test_a_misspelt_key_is_one_problem_and_not_a_missing_key_too(tmp_path: Path) -> None:
    assert only_problem(tmp_path, CLUSTER.replace("vendor", "vendro")).code == "E101"


def test_a_list_with_wrong_entries_is_not_too_short_as_well(tmp_path: Path) -> None:
    assert only_problem(tmp_path, CLUSTER.replace("localhost", "'a b'")).message.startswith("nodes[0].name: ")


def test_an_empty_list_is_too_short(tmp_path: Path) -> None:
    problem = only_problem(tmp_path, CLUSTER.replace("\n  - name: localhost", " []"))
    assert problem.message == "nodes: wants a list of at least 1 entry, found an empty list"


@pytest.mark.parametrize("one", ["true", "1.0", '"1"'])
def test_what_python_calls_equal_to_1_is_not_1(tmp_path: Path, one: str) -> None:
    problem = only_problem(tmp_path, CLUSTER.replace("schema: 1", f"schema: {one}"))
    assert (problem.code, problem.line) == ("E108", 1)


def test_a_refused_value_is_not_complained_about_twice(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, CLUSTER.replace("nodes:", "nodes: *here\nnote:"))
    assert [(problem.code, problem.line) for problem in problems] == [("E105", 7), ("E101", 8)]


def test_keys_are_not_called_contradictory_when_one_of_them_could_not_be_read(tmp_path: Path) -> None:
    text = "schema: 1\nmicro_batch_size: *size\nwhy: {micro_batch_size: memory}\n"
    assert only_problem(tmp_path, text, DeviceConfig).code == "E105"


def test_a_merge_key_hides_what_is_missing(tmp_path: Path) -> None:
    problem = only_problem(tmp_path, "<<: *base\nschema: 1\n")
    assert (problem.code, problem.message) == ("E105", "merge keys (<<) are not read here")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("way: {kind: ssh}", "way: missing key 'port'"),
        ("way: {kind: ssh, port: x}", "way.port: wants a whole number, found text 'x'"),
        ("way: {kind: locla}", "way.kind: wants 'local', found text 'locla'"),
        ("way: 3", "way: wants a mapping with kind or a mapping with kind, port or null, found 3"),
        ("size: 1.5", "size: wants a whole number or 'auto', found 1.5"),
        ("names: [a, 2]", "names[1]: wants text, found 2"),
        ("names: 2", "names: wants text or a list of at least 2 entries, found 2"),
        ("weights: {a: b}", "weights.a: wants a number, found text 'b'"),
        ("weights: {'[key]': b}", "weights.[key]: wants a number, found text 'b'"),
    ],
)
def test_a_value_that_may_be_of_several_types_is_one_problem(tmp_path: Path, line: str, message: str) -> None:
    assert only_problem(tmp_path, line, Choosy).message == message


def test_a_caret_stands_under_wide_characters(tmp_path: Path) -> None:
    problem = only_problem(tmp_path, "{text: 四台, count: 八台}", Free)
    assert (problem.column, problem.width) == (19, 4)
    assert str(problem).splitlines()[2] == f"      | {' ' * 20}^^^^"


def test_nothing_in_a_file_can_draw_on_a_terminal(tmp_path: Path) -> None:
    hidden = "\u202e\u200b\ufeff"
    texts = [
        f"text{hidden}: 1\ncount: {hidden}\n".replace("\ufeff", ""),
        "'\u2066x': 3\n",
        "\x1b[31mtext: 1\n",
        "text: \u2028\n",
        '"\\e[31m": 1\n',
        "%\u202e\n---\na: 1\n",
        "a: !\u202e 1\n",
    ]
    for text in texts:
        for problem in problems_of(tmp_path, text, Free):
            assert not unseen(str(problem)), (text, str(problem))


def test_a_file_name_cannot_draw_either(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "\x1b[2J.yaml", Free)
    assert "\x1b" not in str(caught.value)


def test_a_long_line_is_cut_and_a_long_list_of_problems_too(tmp_path: Path) -> None:
    problem = only_problem(tmp_path, f"text: [{'x' * 5000}]", Free)
    assert problem.excerpt is not None
    assert len(problem.excerpt) == 160
    far = only_problem(tmp_path, f"{{text: {'x' * 5000}, count: eight}}", Free)
    assert (far.column, far.excerpt) == (5017, None)
    many = problems_of(tmp_path, "".join(f"key{n}: 1\n" for n in range(500)), Free)
    assert len(many) == MAX_PROBLEMS + 1
    assert (many[-1].line, many[-1].message) == (MAX_PROBLEMS + 1, "more problems follow from this line on")
    tags = problems_of(tmp_path, "".join(f"key{n}: !t 1\n" for n in range(500)), Free)
    assert len(tags) == MAX_PROBLEMS + 1


# Files that are not even YAML ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        ("", "E108", 1),
        ("# only a comment\n", "E108", 1),
        ("---\n...\n", "E108", None),
        ("- a\n- b\n", "E108", 1),
        ("just words\n", "E108", 1),
        ("8\n", "E108", 1),
        (f"{CLUSTER}---\n{CLUSTER}", "E103", 9),
        (f"%YAML 1.1\n---\n{CLUSTER}", "E105", 1),
        (f"{CLUSTER}...\nmore: 1\n", "E103", 10),
        ("a: \x00\n", "E103", 1),
        ("a: 1\nb: \x85\n", "E103", 2),
        (b"a: 1\nb: \xff\n", "E103", 2),
        (CLUSTER.encode("utf-16"), "E103", 1),
        ("a: " + "x" * MAX_BYTES, "E106", 1),
        ("[" * 3000, "E106", 1),
        ("{a: " * 3000, "E106", 1),
        ("- " * 3000, "E106", 1),
        ("".join(f"{' ' * n}a:\n" for n in range(100)), "E106", MAX_DEPTH + 1),
        ("- 1\n" * (MAX_VALUES + 1), "E106", MAX_VALUES),
        ("? [a]\n: 1\n", "E108", 1),
        ("8: 1\n", "E108", 1),
        ("~: 1\n", "E108", 1),
        ("010: 1\n", "E107", 1),
        ("a: 1\n  b: 2\n", "E103", 2),
        ("a: 'x\n\n\n", "E103", 1),
        ("a: [1,\n2\n", "E103", 1),
        ("a: {b: 1\n", "E103", 1),
        ("a\nb: 1\n", "E103", 2),
        ("a: 1\nb\nc: 2\n", "E103", 2),
        ("a:\n  - 1\n  b: 1\n", "E103", 3),
        ("a: |9x\n", "E103", 1),
        ("a: `b`\n", "E103", 1),
        ("a: *\n", "E103", 1),
        ('a: 1\nb: "\\UFFFFFFFF"\n', "E103", 2),  # ValueError inside the parser in Python
        (f"%YAML {'1' * 5000}.1\n---\na: 1\n", "E103", 1),  # and this one too
        ("a: ]\n", "E103", 1),
        ("!<x\n", "E103", None),
    ],
)
@pytest.mark.parametrize("parser", ["CSafeLoader", "SafeLoader"])
def test_what_is_no_config_is_refused_with_its_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | bytes,
    code: str,
    line: int | None,
    parser: str,
) -> None:
    if not hasattr(yaml, parser):
        pytest.skip("this PyYAML was built without libyaml")
    monkeypatch.setattr(nodes, "Parser", getattr(yaml, parser))
    first = next(problem for problem in problems_of(tmp_path, content) if problem.code == code)
    assert first.line == line if line else first.line is not None


def test_the_parser_in_python_reads_the_same_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = {path: load(path, KINDS[noun]) for path, noun in (param.values for param in SHIPPED)}
    monkeypatch.setattr(nodes, "Parser", yaml.SafeLoader)
    assert {path: load(path, KINDS[noun]) for path, noun in (param.values for param in SHIPPED)} == fast
    assert only_problem(tmp_path, 'text: "\\uD800"', Free).code == "E108"


BOMBS = {
    "aliases": "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [{', '.join(['*a'] * 50)}]\n" for n in range(900)),
    "tags": "".join(f"k{n}: !t &a {n}\n" for n in range(60_000)),
    "brackets": "[" * MAX_BYTES,
    "duplicates": "k: 1\n" * (MAX_BYTES // 5),
    "unknown keys": "".join(f"k{n}: 1\n" for n in range(MAX_VALUES // 2 - 1)),
    "nested keys": "? " * (MAX_BYTES // 2),
    "anchors": "&a " * (MAX_BYTES // 3),
    "quotes": "a: '" + "''" * (MAX_BYTES // 2 - 3) + "'",
    "digits": "text: " + "9" * (MAX_BYTES - 6),
    "base 60": "count: " + "1:" * 500_000 + "1",
    "underscores": "count: " + "1_" * 500_000 + "1",
    "empty lines": "\n" * MAX_BYTES,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_within_100_mb(tmp_path: Path, bomb: str) -> None:
    path = written(tmp_path, bomb)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError):
            load(path, Free)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_a_file_that_is_not_there_names_the_one_that_was_meant(tmp_path: Path) -> None:
    written(tmp_path, CLUSTER, "local.yaml")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "locla.yaml", Cluster, shown_as="cluster/locla.yaml")
    assert str(caught.value) == (
        "cluster/locla.yaml: error[E102] there is no such file\n"
        "      = help: did you mean 'local.yaml', in the same folder?"
    )


def test_a_place_that_holds_no_file_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    file = written(tmp_path, CLUSTER)
    bad = {
        tmp_path: "a folder, not a file",
        tmp_path / "loop.yaml": "its symbolic links run in a circle",
        tmp_path / "pipe.yaml": "not a regular file",
        file / "below.yaml": "there is no such file",
        tmp_path / "a\0b.yaml": "no file can have this name",
        tmp_path / ("x" * 300): "the name is longer than this system allows",
        tmp_path / "no" / "where.yaml": "there is no such file",
    }
    for path, message in bad.items():
        with pytest.raises(ConfigError) as caught:
            load(path, Cluster)
        assert [(problem.code, problem.message) for problem in caught.value.problems] == [("E102", message)]


def test_a_file_that_may_not_be_read_is_a_config_error(tmp_path: Path) -> None:
    path = written(tmp_path, CLUSTER)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything, so for a moment we are nobody
    try:
        with pytest.raises(ConfigError, match="this user may not read it"):
            load(path, Cluster)
    finally:
        os.seteuid(user)


# Several files, stored files, schemas -------------------------------------------------------------


def test_a_stored_file_of_a_newer_version_is_read_without_its_new_keys(tmp_path: Path) -> None:
    path = written(tmp_path, '{"run_id": "r", "world_size": 2, "steps": [1, 2.5], "new": {}}', "plan.json")
    assert read_stored(path, Record) == Record(run_id="r", world_size=2, steps=(1.0, 2.5))


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ('{"run_id": "r", "world_size": "2"}', "world_size: "),
        ('{"run_id": "r", "world_size": true}', "world_size: "),
        ('{"run_id": "r", "world_size": 0}', "world_size: "),
        ('{"run_id": "r", "world_size": 1, "steps": [1, "x"]}', "steps[1]: "),
        ('{"world_size": 1}', "run_id: "),
        ('{"run_id": "r", "world_size": 1, "steps": [NaN]}', "not JSON: "),
        ('{"run_id": "r", "wor', "not JSON: "),
        ("", "not JSON: "),
        ("[]", ""),
        (b'{"run_id": "\xff", "world_size": 1}', "not JSON: "),
        ('{"run_id": "\\ud800", "world_size": 1}', "not JSON: "),
        ("[" * 100_000, "not JSON: "),
    ],
)
def test_a_stored_file_that_does_not_fit_names_its_key(
    tmp_path: Path, content: str | bytes, where: str
) -> None:
    path = written(tmp_path, content, "plan.json")
    with pytest.raises(ConfigError) as caught:
        read_stored(path, Record)
    (problem,) = caught.value.problems
    assert (problem.code, problem.file) == ("E602", str(path))
    assert problem.message.startswith(where)


def test_a_stored_file_that_is_missing_is_a_config_error_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_stored(tmp_path / "plan.json", Record)
    assert [problem.code for problem in caught.value.problems] == ["E602"]


def test_the_schemas_are_fresh() -> None:
    folder = Path(schemas.__file__).parent
    shipped = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    assert shipped == schemas.texts()


def test_the_schemas_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    schemas.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(schemas.texts())


@pytest.mark.parametrize(("path", "noun"), SHIPPED)
def test_every_shipped_file_fits_its_schema_and_names_it(path: Path, noun: str) -> None:
    name = f"{noun}.schema.json"
    schema = json.loads(schemas.texts()[name])
    jsonschema.Draft202012Validator.check_schema(schema)
    root, _ = compose(read_source(path))
    value = plain(root)
    jsonschema.validate(value, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**value, "unknown": 1}, schema)
    named = re.search(r"\$schema=(\S+)", path.read_text(encoding="utf-8"))
    if named:
        assert (path.parent / named.group(1)).resolve() == Path(schemas.__file__).parent / name


# Malformed variants of what we ship ---------------------------------------------------------------

KEY_LINE = re.compile(
    r"^(?P<indent> *)(?P<dash>- )?(?P<key>[A-Za-z_][A-Za-z0-9_]*):(?: (?P<value>[^#\s].*?))?(?: +#.*)?$"
)


def malformed(text: str, kind: type) -> Iterator[tuple[str, str]]:
    """What goes wrong when people edit a file: (what was done, the text after it)."""
    lines = text.splitlines()
    must = {part.name for part in fields(kind) if part.default is MISSING and part.default_factory is MISSING}
    for number, line in enumerate(lines):
        found = KEY_LINE.match(line)
        if not found:
            continue
        start = f"{found['indent']}{found['dash'] or ''}"
        for what, after in _edits(found, start, must):
            changed = [*lines[:number], *after, *lines[number + 1 :]]
            yield f"line {number + 1}: {what}", "\n".join(changed) + "\n"
        yield f"line {number + 1}: cut", "\n".join([*lines[:number], f"{start}{found['key']}"])


def _edits(found: re.Match[str], start: str, must: set[str]) -> Iterator[tuple[str, list[str]]]:
    line, key, value = found.string, found["key"], found["value"]
    yield "misspelt key", [line.replace(f"{key}:", f"{key}!:", 1)]
    yield "tab", ["\t" + line]
    yield "not closed", [f"{start}{key}: [{value or ''}"]
    if not start:
        yield "bad indentation", [" " + line]
    if value is None:
        return
    if not start and key in must:
        yield "dropped", []
    yield "duplicate key", [line, f"{' ' * len(start)}{key}: {value}"]
    for word in ("[1, [2]]", "{x!: 1}", f"*{key}", f"!!str {value}", f"&a {value}", f"{value} \x07", "@x"):
        yield word.replace(value, "…"), [f"{start}{key}: {word}"]
    if re.fullmatch(r"[0-9.e+-]+", value):
        for word in (f"-{value}", f'"{value}"', ".inf", f"{value}k", "true", "1_0", "0o7", "1e999"):
            yield f"number {word}", [f"{start}{key}: {word}"]
    if value in ("true", "false"):
        yield "no", [f"{start}{key}: no"]


#: CI tries every seventh, which is more than a dozen times the 200 that are promised.
EVERY = 7


@pytest.mark.parametrize("every", [EVERY, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("path", "noun"), SHIPPED)
def test_a_malformed_variant_is_refused_with_a_line(
    tmp_path: Path, path: Path, noun: str, every: int
) -> None:
    variants = malformed(path.read_text(encoding="utf-8"), KINDS[noun])
    for what, text in itertools.islice(variants, 0, None, every):
        try:
            load(written(tmp_path, text), KINDS[noun])
        except ConfigError as error:
            lines = [problem.line for problem in error.problems if problem.line is not None]
            assert lines, (what, str(error))
            assert 1 <= min(lines) <= max(lines) <= text.count("\n") + 1, (what, str(error))
            assert {problem.code for problem in error.problems} <= {f"E1{n:02}" for n in range(1, 11)}
        else:
            pytest.fail(f"{what} was read:\n{text}")


def test_there_are_200_malformed_variants_and_more() -> None:
    texts = {
        text
        for path, noun in (param.values for param in SHIPPED)
        for _, text in itertools.islice(
            malformed(path.read_text(encoding="utf-8"), KINDS[noun]), 0, None, EVERY
        )
    }
    assert len(texts) >= 200


def reads_or_refuses(content: bytes, kind: type) -> None:
    """Nothing but a value or a ConfigError whose every problem can be printed."""
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), content)
        try:
            assert isinstance(load(path, kind), kind)
        except ConfigError as error:
            assert error.problems
            assert not unseen(str(error))


TOKENS = st.sampled_from(
    [
        *"\n  :-?[]{},'\"&*!|>%@`#\t\r\\<=~.01é四\ufeff\u2028\x85\x00\u202e",
        *(": ", "- ", "\n  ", "---", "...", "<<", "!!", "\\u", "\\x"),
        *("text", "count", "flag", "way", "kind", "ssh", "names"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b"\xed\xa0\x80")
@example(b"\xff\xfe")
def test_random_bytes_are_a_value_or_a_config_error(content: bytes) -> None:
    reads_or_refuses(content, Free)


@settings(max_examples=300, deadline=None)
@given(st.lists(TOKENS, max_size=40).map("".join), st.sampled_from([Free, Choosy, Cluster, Vendor]))
@example("a: !<tag:yaml.org,2002:int> x", Free)
@example("%TAG ! x\n---\n", Free)
def test_random_pieces_of_yaml_are_a_value_or_a_config_error(text: str, kind: type) -> None:
    reads_or_refuses(text.encode("utf-8"), kind)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_shipped_file_with_a_damaged_byte_is_a_value_or_a_config_error(data: st.DataObject) -> None:
    path, noun = data.draw(st.sampled_from([param.values for param in SHIPPED]))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    reads_or_refuses(bytes(content), KINDS[noun])


@pytest.mark.parametrize(
    "line",
    ["password: hunter2", 'site: {api_token: "hunter2"}', "ssh: {'key-passphrase' : hunter2, port: 1}"],
)
def test_a_secret_that_does_not_belong_there_is_not_shown_with_its_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(f"schema: 1\n{line}\n")
    with pytest.raises(ConfigError) as refused:
        load(file, Cluster)
    said = "\n".join(str(problem) for problem in refused.value.problems)
    assert "***" in said
    assert "hunter2" not in said
