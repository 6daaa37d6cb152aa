"""versions.py: what a vendor's commands say becomes facts, and what they fail to say a reason."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import versions
from orchestrator.load import load
from orchestrator.vendors import ModelCommand, Vendor, VersionCommand
from orchestrator.versions import Answer
from orchestrator.workspace import Workspace

ROOT = Path(__file__).parents[1]
SHIPPED = Workspace(home=ROOT)
PROBES = ROOT / "tests" / "data" / "probes"
COMMANDS = ROOT / "orchestrator" / "node" / "commands.py"
VENDORS = SHIPPED.vendor_names()


def vendor_of(name: str) -> Vendor:
    return load(SHIPPED.vendor_file(name), Vendor)


def told(name: str, sample: str) -> tuple[versions.Accelerators, versions.Versions]:
    """What a vendor's facts are where every command prints this sample of its probe."""
    vendor = vendor_of(name)
    text = (PROBES / f"{name}-{sample}.txt").read_text("utf-8")
    answers = {argv: Answer(text=text) for argv in versions.node_commands(vendor)}
    return versions.accelerators(vendor, answers), versions.read_versions(
        versions.of(vendor, "node"), answers
    )


@pytest.mark.parametrize(
    ("name", "sample", "model", "count", "version"),
    [
        ("mthreads", "two_devices", "MTT S4000", 2, {"driver": "2.2.0"}),
        ("ascend", "910b", "910B1", 2, {"driver": "23.0.0"}),
        ("ascend", "910a", "910A", 1, {"driver": "22.0.2"}),
        ("cambricon", "two_devices", "MLU", 2, {"driver": "5.10.22", "firmware": "1.1.4"}),
        ("kunlunxin", "two_devices", "R300", 2, {"driver": None}),
        ("iluvatar", "two_dies", "Iluvatar BI-V150", 2, {"driver": "3.1.0"}),
        ("metax", "two_devices", "MXC500", 2, {"driver": "2.5.014", "firmware": "1.12.0.0"}),
        ("hygon", "two_devices", None, 2, {"driver": None}),
    ],
)
def test_one_output_of_a_tool_names_counts_and_dates_the_devices(
    name: str, sample: str, model: str | None, count: int, version: dict[str, str | None]
) -> None:
    accelerators, found = told(name, sample)
    assert (accelerators.model, accelerators.count) == (model, count)
    assert found.versions == version
    assert set(found.unknown) == {key for key, value in version.items() if value is None}
    assert ("accelerator_model" in accelerators.unknown) == (model is None)


@pytest.mark.parametrize("name", VENDORS)
def test_a_silent_tool_leaves_every_fact_unknown_with_its_reason(name: str) -> None:
    vendor = vendor_of(name)
    answers = {argv: Answer(why="it is not installed there") for argv in versions.node_commands(vendor)}
    accelerators = versions.accelerators(vendor, answers)
    assert (accelerators.model, accelerators.count) == (None, None)
    assert set(accelerators.unknown) == {"accelerator_model", "accelerator_count"}
    found = versions.read_versions(versions.of(vendor, "node"), answers)
    assert set(found.unknown) == set(found.versions)
    assert set(found.versions.values()) <= {None}


@pytest.mark.parametrize("name", VENDORS)
def test_each_command_line_is_asked_once(name: str) -> None:
    commands = versions.node_commands(vendor_of(name))
    assert len(commands) == len(set(commands))


def test_different_models_stand_beside_each_other() -> None:
    vendor = vendor_of("nvidia")
    assert vendor.model is not None
    names = "NVIDIA A100-SXM4-80GB\nNVIDIA A100-SXM4-80GB\nNVIDIA A800-SXM4-80GB\n"
    answers = dict.fromkeys(versions.node_commands(vendor), Answer(why="exited 9"))
    answers[vendor.model.argv] = Answer(text=names)
    found = versions.accelerators(vendor, answers)
    # The probe did not answer; who was named can be counted as well.
    assert (found.model, found.count) == ("NVIDIA A100-SXM4-80GB, NVIDIA A800-SXM4-80GB", 3)
    assert found.unknown == {}


def test_the_first_line_that_fits_decides_and_not_the_first_of_the_output() -> None:
    command = VersionCommand(where="image", argv=("x",), regex="^Version: ([^ ]+)$", example="Version: 1")
    found = versions.read_versions(
        {"torch": command}, {("x",): Answer(text="Name: torch\nVersion: 2.0.1+x\nVersion: 9\n")}
    )
    assert found.versions == {"torch": "2.0.1+x"}


def test_the_model_command_has_to_fit_its_example() -> None:
    with pytest.raises(ValueError, match="not found in its example"):
        ModelCommand(argv=("x",), regex="^([0-9]+)$", example="none", source="a test")


def commands(*argvs: tuple[str, ...], limit_s: float = 60.0) -> dict[tuple[str, ...], Answer]:
    request = json.dumps({"argvs": argvs, "limit_s": limit_s})
    done = subprocess.run(
        [sys.executable, "-", request],
        input=COMMANDS.read_bytes(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    return versions.read_answers(b"a banner of the image\n" + done.stdout, argvs)


def test_the_reader_in_an_image_tells_what_each_command_said_and_how_it_failed() -> None:
    good, bad = (sys.executable, "-c", "print('é')"), (sys.executable, "-c", "raise SystemExit('no driver')")
    gone = ("no-such-program",)
    found = commands(good, bad, gone)
    assert found[good] == Answer(text="é\n")
    assert "exited 1" in str(found[bad].why)
    assert "no driver" in str(found[bad].why)
    assert "did not run" in str(found[gone].why)
    assert "No such file" in str(found[gone].why)
    assert found[gone].final


def test_a_command_that_hangs_in_an_image_is_over_time_and_the_others_are_heard() -> None:
    hangs, good = (sys.executable, "-c", "import time; time.sleep(600)"), (sys.executable, "-c", "print(1)")
    found = commands(hangs, good, limit_s=5.0)
    assert "no answer within 5 s" in str(found[hangs].why)
    assert not found[hangs].final
    assert found[good].text == "1\n"


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b"[1]", b'[{"rc": "0", "out": 1}]', b'[{"rc": [1]}]', b"\xff", b"[" * 100000]
)
def test_whatever_an_image_prints_is_at_most_unknown(raw: bytes) -> None:
    found = versions.read_answers(raw, (("x",),))
    assert found[("x",)].why


def test_the_container_that_reads_versions_is_given_nothing() -> None:
    image = "sha256:" + "0" * 64
    argv = versions.reading_argv(image, "{}", labels={"nx8.run": "r"})
    assert argv[-3:] == (image, "-", "{}")
    assert {"--network=none", "--pull=never", "--cap-drop=ALL", "--rm", "--label=nx8.run=r"} <= set(argv)
    assert not [
        word for word in argv if word.startswith(("--device", "--gpus", "--mount", "--volume", "--priv"))
    ]


def test_other_commands_or_another_image_are_read_anew() -> None:
    vendor = vendor_of("nvidia")
    asked = versions.of(vendor, "image")
    changed = {**asked, "torch": dataclasses.replace(asked["torch"], argv=("python3", "-V"))}
    keys = [versions._key(image, one) for image in ("a", "b") for one in (asked, changed)]
    assert len(set(keys)) == 4
