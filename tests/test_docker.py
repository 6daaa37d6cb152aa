"""docker: arguments out, answers in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import docker
from orchestrator.docker import ContainerSpec, ContainerState, ImageFacts, Mount
from orchestrator.errors import ConfigError, Problem
from orchestrator.load import load
from orchestrator.vendors import Vendor

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "data" / "golden" / "docker-argv"
VENDORS = sorted(path.parent.name for path in (ROOT / "dockerfiles").glob("*/vendor.yaml"))
PAYLOADS = [
    "; touch /tmp/PWN #",
    "$(touch /tmp/PWN)",
    "`touch /tmp/PWN`",
    "a\nb",
    "a\rb",
    "a\x00b",
    "a\x1b[31mb",
    "--privileged",
    "-v/:/host",
    "a,readonly=false,source=/",
    "a,b",
    "a'b",
    'a"b',
    "a b",
    "a\\b",
    "../../etc",
    "/../../etc",
    "a=b",
    "{{json .}}",
    "",
    "é",
    "a\u2028b",
    "|",
    "&&",
    "*",
]
LOCATIONS = (
    "image",
    "name",
    "device",
    "group",
    "runtime",
    "source",
    "target",
    "workdir",
    "capability",
    "ulimit",
    "user",
    "label_key",
    "env_name",
    "env_value",
    "label_value",
    "command",
)


def vendor(name):
    return load(ROOT / "dockerfiles" / name / "vendor.yaml", Vendor)


def spec(name, **changes):
    given = {
        "engine": "deepspeed",
        "image": "nx8-v-deepspeed:0123456789ab",
        "name": "nx8-20260102T030405Z-abcdef-llama2_7b-n1",
        "command": ("python3", "/opt/nx8/trainer/launch.py", "--job", "/nx8/job/job.json"),
        "num_devices": 2,
        "node_job_dir": "/srv/nx8/runs/r/c",
        "node_data_dir": "/srv/nx8/data",
        "labels": {"nx8.run": "r", "nx8.cell": "c", "nx8.node_rank": "1", "nx8.owner": "o"},
        "environment": {"NX8_RUN": "r"},
    }
    return docker.container_spec(vendor(name), **(given | changes))


@pytest.mark.parametrize("name", VENDORS)
@pytest.mark.parametrize("engine", ["deepspeed", "ddp"])
def test_the_arguments_of_every_vendor_are_as_reviewed(name, engine):
    text = "\n".join(docker.create_argv(spec(name, engine=engine))) + "\n"
    path = GOLDEN / f"{name}-{engine}.txt"
    if os.environ.get("NX8_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", VENDORS)
def test_no_container_gets_more_than_its_vendor_declares(name):
    words = docker.create_argv(spec(name))
    wants = vendor(name).docker
    assert ("--privileged" in words) == wants.privileged
    assert ("--cap-drop=ALL" in words) != wants.privileged
    assert "--security-opt=no-new-privileges" in words
    assert [word for word in words if word.startswith("--mount=") and not word.endswith(",readonly")] == [
        "--mount=type=bind,source=/srv/nx8/runs/r/c,target=/nx8/job"
    ]
    assert not any("docker.sock" in word for word in words)
    assert {"--init", "--restart=no", "--log-driver=local", "--pull=never"} <= set(words)


def test_device_files_follow_the_number_of_devices():
    words = docker.create_argv(spec("kunlunxin", num_devices=3))
    assert [word for word in words if word.startswith("--device=")] == [
        "--device=/dev/xpu0",
        "--device=/dev/xpu1",
        "--device=/dev/xpu2",
        "--device=/dev/xpuctrl",
    ]
    assert "--env=XPU_VISIBLE_DEVICES=0,1,2" in words


def _changed(location, payload):
    plain = {"image": "nx8:1", "name": "n", "command": ("python3",)}
    changes = {
        "image": {"image": payload},
        "name": {"name": payload},
        "device": {"devices": (payload,)},
        "group": {"groups": (payload,)},
        "runtime": {"runtime": payload},
        "source": {"mounts": (Mount(source=payload, target="/x"),)},
        "target": {"mounts": (Mount(source="/x", target=payload),)},
        "workdir": {"workdir": payload},
        "capability": {"capabilities": (payload,)},
        "ulimit": {"ulimits": {payload: 1}},
        "user": {"user": payload},
        "label_key": {"labels": {payload: "v"}},
        "env_name": {"environment": {payload: "v"}},
        "env_value": {"environment": {"NAME": payload}},
        "label_value": {"labels": {"nx8.run": payload}},
        "command": {"command": ("python3", payload)},
    }[location]
    return ContainerSpec(**(plain | changes))


def _shape(words):
    return [word.partition("=")[0] for word in words if word.startswith("--")]


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_is_refused_or_stays_one_word_of_its_option(location, payload):
    harmless = {
        "source": "/x",
        "target": "/x",
        "workdir": "/x",
        "device": "/dev/x",
        "capability": "ABC",
        "ulimit": "nofile",
        "user": "1:1",
    }
    plain = docker.create_argv(_changed(location, harmless.get(location, "x")))
    try:
        words = docker.create_argv(_changed(location, payload))
    except ConfigError as error:
        assert error.exit_code == 2
        return
    assert len(words) == len(plain)
    if location == "command":
        assert words[-1] == payload
        assert words[:-1] == plain[:-1]
    else:
        assert _shape(words) == _shape(plain)
    assert not any(char in word for word in words for char in "\n\r\x00\x1b")


@pytest.mark.parametrize("payload", [one for one in PAYLOADS if one not in ("a", "a=b")])
@pytest.mark.parametrize(
    "make", [docker.inspect_argv, docker.stop_argv, docker.remove_argv, docker.save_argv, docker.build_argv]
)
def test_a_name_that_is_none_reaches_no_command(make, payload):
    with pytest.raises(ConfigError):
        make(payload)


def test_docker_s_own_socket_is_never_handed_over():
    with pytest.raises(ConfigError, match="hands the node"):
        ContainerSpec(
            image="x", name="x", command=("x",), mounts=(Mount(source="/var/run/docker.sock", target="/s"),)
        )


INSPECTED = {
    "Id": "ab" * 32,
    "Name": "/nx8-r-c-n0",
    "Image": "sha256:" + "cd" * 32,
    "State": {
        "Status": "exited",
        "Running": False,
        "OOMKilled": True,
        "ExitCode": 137,
        "Error": "",
        "StartedAt": "2026-01-02T03:04:05.678901234Z",
        "FinishedAt": "2026-01-02T03:05:05.678901234Z",
    },
    "Config": {"Labels": {"nx8.run": "r"}},
}


def test_inspect_says_how_a_container_ended():
    assert docker.read_inspect(json.dumps([INSPECTED]).encode()) == ContainerState(
        id="ab" * 32,
        name="nx8-r-c-n0",
        image_id="sha256:" + "cd" * 32,
        status="exited",
        running=False,
        exit_code=137,
        oom_killed=True,
        error=None,
        started_at="2026-01-02T03:04:05.678901234Z",
        finished_at="2026-01-02T03:05:05.678901234Z",
        labels={"nx8.run": "r"},
    )


def test_a_running_container_has_no_exit_code_although_docker_writes_0():
    state = INSPECTED["State"] | {
        "Status": "running",
        "Running": True,
        "ExitCode": 0,
        "FinishedAt": "0001-01-01T00:00:00Z",
    }
    found = docker.read_inspect(json.dumps([INSPECTED | {"State": state}]).encode())
    assert isinstance(found, ContainerState)
    assert (found.running, found.exit_code, found.finished_at) == (True, None, None)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"[{}]", b"null", b"\xff", b"[" * 100_000, b'[{"Id":1}]'])
def test_an_answer_that_is_none_is_a_problem_and_no_exception(raw):
    assert isinstance(docker.read_inspect(raw), Problem)
    assert isinstance(docker.read_image(raw), Problem)
    assert isinstance(docker.read_version(raw), Problem)


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(changes=st.dictionaries(st.sampled_from([*INSPECTED, *INSPECTED["State"]]), odd))
def test_no_odd_value_in_an_answer_raises(changes):
    state = INSPECTED["State"] | {key: value for key, value in changes.items() if key in INSPECTED["State"]}
    whole = INSPECTED | {"State": state} | {key: value for key, value in changes.items() if key in INSPECTED}
    raw = json.dumps([whole]).encode()
    assert isinstance(docker.read_inspect(raw), ContainerState | Problem)
    assert isinstance(docker.read_image(raw), ImageFacts | Problem)


@settings(max_examples=60, deadline=None)
@given(raw=st.binary(max_size=500))
def test_no_bytes_raise(raw):
    docker.read_inspect(raw)
    docker.read_image(raw)
    docker.read_version(raw)


def test_images_and_versions_are_read():
    found = docker.read_version(b'{"Client":{"Version":"20.10.24"},"Server":null}')
    assert isinstance(found, docker.EngineVersion)
    assert (found.client, found.server) == ("20.10.24", None)
    image = docker.read_image(
        json.dumps(
            [{"Id": "sha256:" + "0" * 64, "RepoTags": ["a:b"], "RepoDigests": None, "Size": 5}]
        ).encode()
    )
    assert isinstance(image, ImageFacts)
    assert (image.tags, image.digests, image.size_bytes) == (("a:b",), (), 5)
