"""vendors: what a folder says, what it lacks, and that a new one needs no code."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from orchestrator import docker, render
from orchestrator.cli.vendors_verb import command
from orchestrator.cluster import Site
from orchestrator.errors import ConfigError
from orchestrator.load import load, load_text
from orchestrator.vendorcheck import check
from orchestrator.vendors import Image, Vendor
from orchestrator.workspace import Workspace

ROOT = Path(__file__).parents[1]
SHIPPED = Workspace(home=ROOT)
VENDORS = SHIPPED.vendor_names()


def vendor_of(name):
    return load(SHIPPED.vendor_file(name), Vendor)


@pytest.fixture
def workspace(home):
    shutil.copytree(ROOT / "tests" / "data" / "probes", home / "tests" / "data" / "probes")
    return Workspace(home=home)


def test_the_ten_vendors_are_there():
    assert set(VENDORS) >= {
        "nvidia", "mthreads", "kunlunxin", "cambricon", "cpu", "iluvatar", "metax", "ascend", "hygon", "amd"
    }  # fmt: skip


@pytest.mark.parametrize("name", VENDORS)
def test_a_shipped_vendor_lacks_nothing(name):
    assert check(SHIPPED, name).problems == ()


@pytest.mark.parametrize("name", VENDORS)
def test_every_figure_names_its_source_and_every_gap_its_reason(name):
    vendor = vendor_of(name)
    for device in vendor.devices.values():
        assert device.memory_source if device.memory_gib else device.memory_reason
        for peak in device.peaks.values():
            assert peak.source if peak.tflops else peak.reason
    for image in vendor.images.values():
        assert image.digest or image.not_pinned
    assert not vendor.docker.privileged or vendor.docker.privileged_reason


def test_no_code_names_a_vendor():
    names = set(VENDORS) - {"cpu"}
    for path in (ROOT / "orchestrator").rglob("*.py"):
        found = {name for name in names if re.search(rf"\b{name}\b", path.read_text(), re.IGNORECASE)}
        assert not found & {"kunlunxin", "cambricon", "iluvatar", "metax", "hygon"}, path


ELEVENTH = """\
schema: 1
display_name: Eleventh
torch: {device_type: eleven, plugin: torch_eleven, backend: elccl, deepspeed_accelerator: eleven}
visible_devices: ELEVEN_VISIBLE_DEVICES
images:
  any: {registry: registry.example.org, repository: eleven/torch, tag: "1", not_pinned: a test, source: s}
packages:
  - {module: deepspeed, requirement: deepspeed==0.14.5, engines: [deepspeed]}
docker:
  devices: ["/dev/eleven{index}", /dev/elevenctl]
devices:
  E11:
    display_name: E11
    memory_gib: 11
    memory_source: a test
    peaks:
      fp32: {tflops: null, reason: a test}
      bf16: {tflops: 11, source: a test}
      fp16: {tflops: 11, source: a test}
probe:
  argv: [eleven-smi]
  source: a test
  parser:
    kind: csv
    separator: ";"
    columns: {index: 0, temperature: 1, power: 2, memory_used: 3, memory_total: 4, utilisation: 5}
  quantities:
    temperature: {unit: C}
    power: {unit: mW}
    memory_used: {unit: KiB}
    memory_total: {unit: KiB}
    utilisation: {unit: fraction, decimals: 2}
  layout: {each: ["{index};{temperature};{power};{memory_used};{memory_total};{utilisation}"]}
versions:
  driver: {where: node, argv: [eleven-smi, -V], regex: "^v([0-9.]+)$", example: v11.0}
  torch: {where: image, argv: [eleven-torch], regex: "^v([0-9.]+)$", example: v11.0}
"""
TEMPLATE = (
    '{% include "shared/base.j2" %}\n{% include "shared/packages.j2" %}\n{% include "shared/trainer.j2" %}\n'
)


def test_an_eleventh_vendor_is_data_alone(workspace):
    folder = workspace.vendors / "eleventh"
    folder.mkdir()
    (folder / "vendor.yaml").write_text(ELEVENTH)
    said = [problem.message for problem in check(workspace, "eleventh").problems]
    assert any("Dockerfile.j2" in one for one in said)
    assert any("no sample" in one for one in said)

    (folder / "Dockerfile.j2").write_text(TEMPLATE)
    probes = workspace.home / "tests" / "data" / "probes"
    (probes / "eleventh-one.txt").write_text("0;40;100000;1;2;0.5\n")
    (probes / "eleventh-one.json").write_text(
        '{"samples": [{"index": 0, "temperature_c": 40.0, "power_w": 100.0, "memory_used_bytes": 1024,'
        ' "memory_total_bytes": 2048, "utilisation": 0.5}], "num_unread": 0, "unread": []}'
    )
    assert check(workspace, "eleventh").problems == ()
    shown = CliRunner().invoke(command, ["render", "eleventh"], obj=workspace.home)
    assert shown.exit_code == 0, shown.output
    assert "FROM registry.example.org/eleven/torch:1" in shown.output
    assert "--device=/dev/eleven7" in shown.output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("visible_devices: ELEVEN_VISIBLE_DEVICES\n", ""), "visible_devices"),
        (("      fp16: {tflops: 11, source: a test}\n", ""), "fp16 is missing"),
        (("    memory_source: a test\n", ""), "memory_source"),
        (("tflops: 11, source: a test", "tflops: 11"), "a peak figure needs its source"),
        (("not_pinned: a test, ", ""), "without digest"),
        (('  devices: ["/dev/eleven{index}", /dev/elevenctl]\n', "  privileged: true\n"), "_reason"),
        (('  devices: ["/dev/eleven{index}", /dev/elevenctl]\n', "  shm_size_gib: 1\n"), "its devices"),
        (('"^v([0-9.]+)$", example: v11.0}\n  torch', '"(v+)+", example: v11.0}\n  torch'), "has|two ways"),
        (("example: v11.0", "example: none"), "not found in its example"),
        (('{power};', '{memory_total};'), "does not read what its layout prints"),
        (("{module: deepspeed,", "{module: numpy,"), "deepspeed is missing"),
        (("unit: mW", "unit: MiB"), "power in MiB"),
        (("deepspeed==0.14.5", "deepspeed>=0.14"), "one version"),
        (("/dev/elevenctl", "/etc/passwd"), "/dev"),
    ],
)  # fmt: skip
def test_check_says_what_is_lacking(change, says, workspace):
    folder = workspace.vendors / "eleventh"
    folder.mkdir()
    assert change[0] in ELEVENTH
    (folder / "vendor.yaml").write_text(ELEVENTH.replace(*change))
    (folder / "Dockerfile.j2").write_text(TEMPLATE)
    said = "\n".join(map(str, check(workspace, "eleventh").problems))
    assert re.search(says, said), said


def test_check_tells_all_vendors_at_once_and_exits_2(workspace):
    (workspace.vendors / "amd" / "Dockerfile.j2").unlink()
    (workspace.home / "tests" / "data" / "probes" / "metax-two_devices.json").write_text("{}")
    result = CliRunner().invoke(command, ["check", "--quiet"], obj=workspace.home)
    assert isinstance(result.exception, ConfigError)
    assert result.exception.exit_code == 2
    assert {Path(problem.file).parent.name for problem in result.exception.problems} == {"amd", "metax"}
    assert "nvidia      complete" in result.output


def test_check_says_aloud_what_is_allowed_but_not_known():
    result = CliRunner().invoke(command, ["check", "kunlunxin"], obj=ROOT)
    assert result.exit_code == 0
    assert "not pinned" in result.output
    assert "256 in FlagPerf's" in result.output


HOSTILE = (
    "a\nRUN touch /tmp/PWN",
    "$(touch /tmp/PWN)",
    "--privileged",
    "a,source=/,target=/host",
    'a"]\nUSER root',
    "../../etc",
    "{{ 7 * 7 }}",
    "a\x00b",
    "(a+)+$",
    "\u2028ENV A=b",
    "",
    "`id`",
)


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, one in value.items():
            yield (*path, key), key, True
            yield from leaves(one, (*path, key))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from leaves(one, (*path, index))
    elif isinstance(value, str):
        yield path, value, False


def replaced(value, path, payload, *, of_key):
    if not path:
        return payload
    head, rest = path[0], path[1:]
    if isinstance(value, dict):
        if of_key and not rest:
            return {payload if key == head else key: one for key, one in value.items()}
        return {
            key: replaced(one, rest, payload, of_key=of_key) if key == head else one
            for key, one in value.items()
        }
    return [
        replaced(one, rest, payload, of_key=of_key) if index == head else one
        for index, one in enumerate(value)
    ]


def shape(vendor):
    """Instructions of the Dockerfile and options of `docker container create`."""
    text = render.dockerfile(SHIPPED.vendors, "nvidia", vendor, engine="deepspeed", site=Site())
    spec = docker.container_spec(
        vendor,
        engine="deepspeed",
        image="nx8:1",
        name="nx8",
        command=("python3",),
        num_devices=2,
        node_job_dir="/srv/nx8",
    )
    words = docker.create_argv(spec)
    options = [word.partition("=")[0] for word in words]
    return [line.split(" ")[0] for line in text.splitlines() if re.match("[A-Z]+ ", line)], options


@pytest.mark.parametrize("name", ["kunlunxin", "nvidia"])
def test_no_string_of_a_vendor_file_adds_an_instruction_or_an_option(name):
    tree = yaml.safe_load(SHIPPED.vendor_file(name).read_text())
    wanted_instructions, wanted_options = shape(vendor_of(name))
    refused = taken = 0
    for number, (path, _, of_key) in enumerate(leaves(tree)):
        for payload in (HOSTILE[number % len(HOSTILE)], HOSTILE[(number + 5) % len(HOSTILE)]):
            text = json.dumps(replaced(tree, path, payload, of_key=of_key))
            try:
                found_instructions, found_options = shape(load_text(text, Vendor, shown_as="vendor.yaml"))
            except ConfigError as error:
                assert error.exit_code == 2
                refused += 1
            else:
                taken += 1
                assert found_instructions == wanted_instructions, (path, payload)
                # A runtime that was null, or a flag that was left away, is no option that a payload made.
                assert len(found_options) == len(wanted_options) or path[0] == "optimisations", (
                    path,
                    payload,
                )
    assert refused > 100
    assert taken > 20


def test_optimisations_and_devices_make_the_environment():
    vendor = vendor_of("kunlunxin")
    given = vendor.environment_of("deepspeed", num_devices=4)
    assert given["XDNN_FC_GEMM_DTYPE"] == "float32"
    assert given["BKCL_FORCE_SYNC"] == "1"
    assert given["XPU_FC_AUTOTUNE_FILE"].startswith("/nx8/data/")
    assert given["XPU_VISIBLE_DEVICES"] == "0,1,2,3"
    off = dataclasses.replace(
        vendor, optimisations=tuple(dataclasses.replace(one, on=False) for one in vendor.optimisations)
    )
    assert "BKCL_FORCE_SYNC" not in off.environment_of("deepspeed", num_devices=4)
    assert vendor_of("mthreads").environment_of("ddp", num_devices=1)["MUSA_KERNEL_TIMEOUT"] == "1800000"


def test_r300_and_s4000_have_the_published_figures():
    r300 = vendor_of("kunlunxin").devices["R300"]
    assert (r300.memory_gib, r300.peak("fp16").tflops) == (32, 128)
    assert any("256" in one for one in r300.peak("fp16").contradicted)
    s4000 = vendor_of("mthreads").devices["S4000"]
    assert (s4000.memory_gib, s4000.peak("fp16").tflops) == (48, 98)
    assert vendor_of("cambricon").devices["MLU"].peak("bf16").tflops is None


def test_an_unpinned_or_unpublished_image_has_to_say_so():
    with pytest.raises(ValueError, match="not_pinned"):
        Image(registry="a.b", repository="c", tag="d", source="s")
    with pytest.raises(ValueError, match="localhost"):
        Image(registry="localhost", repository="c", tag="d", source="s", not_pinned="x")


def test_a_vendor_of_the_first_days_still_loads():
    vendor = load_text(
        "schema: 1\ndisplay_name: x\ntorch: {device_type: cpu, backend: gloo}\n"
        "devices: {d: {display_name: d, memory_gib: null, memory_reason: r, peaks: {}}}\n",
        Vendor,
        shown_as="vendor.yaml",
    )
    assert vendor.image("ddp") is None
    assert vendor.environment_of("ddp", num_devices=1) == {}
