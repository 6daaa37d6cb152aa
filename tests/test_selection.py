"""selection.py and workspace.py: a name means one file, and all that is missing is said together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import ConfigError
from orchestrator.selection import Selection, select
from orchestrator.workspace import Workspace, find

if TYPE_CHECKING:
    from pathlib import Path


def chosen(home: Path, *cases: str, vendor: str | None = None, cluster: str | None = None) -> Selection:
    return select(Workspace(home=home), cases=cases, vendor=vendor, cluster=cluster)


def codes(error: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    return [problem.code for problem in error.value.problems]


def site(home: Path, name: str, **changes: str) -> None:
    text = (home / "cluster" / "local.yaml").read_text("utf-8")
    for key, value in changes.items():
        text = re.sub(rf"^{key}:.*$", f"{key}: {value}", text, flags=re.MULTILINE)
    (home / "cluster" / f"{name}.yaml").write_text(text, "utf-8")


def test_without_a_word_the_local_cluster_and_every_case_with_a_config_for_it_are_meant(home: Path) -> None:
    seen = chosen(home)
    assert (seen.cluster_name, seen.vendor_name) == ("local", "cpu")
    assert [case.name for case in seen.cases] == ["llama2_7b", "llava1.5_13b", "llava1.5_7b"]


def test_a_vendor_alone_means_its_only_cluster_and_never_the_example(home: Path) -> None:
    assert chosen(home, vendor="cpu").cluster_name == "local"


def test_two_clusters_of_a_vendor_are_listed_and_none_is_guessed(home: Path) -> None:
    site(home, "second")
    with pytest.raises(ConfigError, match=r"2 cluster files .*: local, second") as error:
        chosen(home, "llama2_7b", vendor="cpu")
    assert codes(error) == ["E112"]
    assert chosen(home, vendor="cpu", cluster="second").cluster_name == "second"


def test_everything_that_is_missing_is_said_at_once(home: Path) -> None:
    with pytest.raises(ConfigError) as error:
        chosen(home, "llama2_7c", vendor="nobody")
    assert sorted(codes(error)) == ["E112", "E113", "E114"]
    assert "did you mean 'llama2_7b'" in str(error.value)


def test_a_vendor_that_is_not_the_cluster_s_is_a_contradiction(home: Path) -> None:
    (home / "dockerfiles" / "other").mkdir()
    vendor = (home / "dockerfiles" / "cpu" / "vendor.yaml").read_text("utf-8")
    (home / "dockerfiles" / "other" / "vendor.yaml").write_text(vendor, "utf-8")
    with pytest.raises(ConfigError, match="this cluster's vendor is 'cpu'"):
        chosen(home, vendor="other", cluster="local")


def test_a_device_that_the_vendor_does_not_have_is_named_with_those_it_has(home: Path) -> None:
    site(home, "odd", device="gpu9")
    with pytest.raises(ConfigError, match="'gpu9' is not one of vendor 'cpu'") as error:
        chosen(home, "llama2_7b", cluster="odd")
    assert "its devices: cpu" in str(error.value)


def test_a_scale_without_a_config_names_the_missing_file(home: Path) -> None:
    site(home, "wide", devices_per_node="4")
    with pytest.raises(ConfigError, match=r"configs/cpux1x4\.yaml is missing"):
        chosen(home, "llama2_7b", cluster="wide")
    with pytest.raises(ConfigError, match="no case has a config for cpux1x4"):
        chosen(home, cluster="wide")


def test_a_rehearsal_needs_no_config_of_its_scale(home: Path) -> None:
    site(home, "lab", devices_per_node="4")
    with (home / "cluster" / "lab.yaml").open("a", encoding="utf-8") as file:
        file.write("rehearsal: true\n")
    assert chosen(home, "llama2_7b", cluster="lab").cases[0].config.precision == "fp32"


def test_a_key_that_the_case_keeps_to_itself_is_refused_in_a_device_config(home: Path) -> None:
    case = home / "cases" / "llama2_7b" / "case.yaml"
    case.write_text(case.read_text("utf-8").replace("  - precision\n", ""), "utf-8")
    with pytest.raises(ConfigError, match=r"precision is not a key that case .* lets a device change"):
        chosen(home)


def test_problems_of_several_files_come_together_with_their_lines(home: Path) -> None:
    for path, old, new in (
        (home / "cluster" / "local.yaml", "devices_per_node: 2", "devices_per_node: two"),
        (home / "dockerfiles" / "cpu" / "vendor.yaml", "launcher: fork", "launcher: spoon"),
        (home / "cases" / "llama2_7b" / "case.yaml", "num_layers: 32", "num_layer: 32"),
    ):
        path.write_text(path.read_text("utf-8").replace(old, new, 1), "utf-8")
    with pytest.raises(ConfigError) as error:
        chosen(home, "llama2_7b", vendor="cpu", cluster="local")
    files = {problem.file for problem in error.value.problems}
    assert files == {"cluster/local.yaml", "dockerfiles/cpu/vendor.yaml", "cases/llama2_7b/case.yaml"}
    assert all(problem.line for problem in error.value.problems)


def test_the_home_is_the_option_then_the_environment_then_upwards(home: Path, tmp_path: Path) -> None:
    below = home / "cases" / "llama2_7b"
    assert find(home=None, environment={}, working_directory=below).home == home
    assert find(home=None, environment={"NX8_HOME": str(home)}, working_directory=tmp_path).home == home
    assert find(home=home, environment={"NX8_HOME": "/"}, working_directory=tmp_path).home == home
    with pytest.raises(ConfigError, match=r"E111.*is in no Nx8 folder"):
        find(home=None, environment={}, working_directory=tmp_path)
    with pytest.raises(ConfigError, match="lacks cases/, dockerfiles/, cluster/"):
        find(home=tmp_path, environment={}, working_directory=home)
