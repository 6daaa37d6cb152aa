"""Are the planned devices there, and free? Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.doctor.checks.making import bad, gib, missed, ok, unasked, warn
from orchestrator.probe import read_probe
from orchestrator.versions import accelerators

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.doctor.expected import Expected
    from orchestrator.doctor.findings import Check
    from orchestrator.doctor.seen import Seen
    from orchestrator.probe import Sample

#: What a driver itself keeps of an idle device's memory; more is somebody's.
IDLE_BYTES = 1024**3
IDLE_FRACTION = 0.05
BUSY_UTILISATION = 0.05
#: Of a data sheet's memory a tool shows a little less, or it is another device.
MEMORY_TOLERANCE = 0.15
#: Load of a machine without accelerators, per processor.
BUSY_LOAD = 0.5


def samples(seen: Seen, wanted: Expected) -> tuple[Sample, ...]:
    """What the vendor's probe says of each device; nothing where it does not answer."""
    probe = wanted.vendor.probe
    answer = seen.answers.get(probe.argv) if probe is not None else None
    if probe is None or answer is None or answer.why is not None:
        return ()
    memory = wanted.device.memory_gib
    capacity = None if memory is None else round(memory * 1024**3)
    return read_probe(answer.text.encode("utf-8"), probe, capacity_bytes=capacity).samples


def devices(seen: Seen, wanted: Expected) -> Iterator[Check]:
    if wanted.is_local or wanted.vendor.torch.device_type == "cpu":
        yield from _processors(seen, wanted)
        return
    problems = [*_absent_files(seen, wanted), *_count(seen, wanted), *_model(seen, wanted)]
    if problems:
        yield from problems
        return
    number = wanted.cluster.devices_per_node
    name = wanted.device.display_name
    yield ok("devices", f"{number} 张 {name}", f"{number} × {name}", shown=f"{number}/{number}")


def _processors(seen: Seen, wanted: Expected) -> Iterator[Check]:
    cpus, ranks = int(seen.hello.get("cpus_allowed") or 0), wanted.cluster.devices_per_node
    if cpus and cpus < ranks:
        yield warn(
            "devices",
            "E223",
            f"{ranks} 个进程分 {cpus} 个处理器",
            f"{ranks} ranks share {cpus} processors",
            owner="user",
            fix=f"grep -n ^devices_per_node cluster/{wanted.cluster_name}.yaml",
            shown=f"{cpus}/{ranks}",
        )
    else:
        yield ok("devices", f"{cpus} 个处理器", f"{cpus} processors", shown=f"{cpus}")


def _absent_files(seen: Seen, wanted: Expected) -> Iterator[Check]:
    absent = [path for path, kind in seen.kinds.items() if kind is None]
    if absent:
        shown = ", ".join(absent[:4]) + (f" … ({len(absent)})" if len(absent) > 4 else "")
        yield bad(
            "devices",
            "E223",
            f"缺少设备文件或驱动目录：{shown}",
            f"device files or driver folders are missing: {shown}",
            fix=seen.there("dmesg | tail -n 50", root=True)
            if not wanted.vendor.probe
            else seen.there(" ".join(wanted.vendor.probe.argv)),
            shown=f"-{len(absent)}",
        )


def _count(seen: Seen, wanted: Expected) -> Iterator[Check]:
    vendor, planned = wanted.vendor, wanted.cluster.devices_per_node
    if vendor.probe is None and vendor.model is None:
        return
    if not seen.answers:
        yield missed("devices", seen.missed.get("vendor", "?"))
        return
    told = accelerators(vendor, seen.answers)
    tool = (vendor.probe or vendor.model).argv  # type: ignore[union-attr]
    if told.count is None:
        why = told.unknown.get("accelerator_count") or told.unknown.get("accelerator_model", "?")
        yield bad(
            "devices",
            "E223",
            f"数不出加速卡：{why}",
            f"its devices cannot be counted: {why}",
            owner="vendor",
            fix=seen.there(" ".join(tool)),
        )
    elif told.count < planned:
        yield bad(
            "devices",
            "E223",
            f"{told.count} 张加速卡，计划用 {planned} 张",
            f"{told.count} devices, {planned} are planned",
            owner="vendor",
            fix=seen.there(" ".join(tool), "lspci | tail -n 20"),
            shown=f"{told.count}/{planned}",
        )


def _model(seen: Seen, wanted: Expected) -> Iterator[Check]:
    """Whether the tool names the planned device, and its memory is that of the data sheet."""
    cluster, device = wanted.cluster, wanted.device
    model = accelerators(wanted.vendor, seen.answers).model if seen.answers else None
    if model is not None and not _is_named(model, f"{cluster.device} {device.display_name}"):
        yield warn(
            "devices",
            "E223",
            f"是 {model}，集群文件写的是 {cluster.device}",
            f"they are {model}, the cluster file says {cluster.device}",
            owner="user",
            fix=f"grep -n ^device cluster/{wanted.cluster_name}.yaml",
            shown=model[:10],
        )
    if device.memory_gib is None or cluster.rehearsal:
        return
    listed = device.memory_gib * 1024**3
    odd = [
        one
        for one in samples(seen, wanted)
        if one.memory_total_bytes and abs(one.memory_total_bytes / listed - 1) > MEMORY_TOLERANCE
    ]
    if odd:
        size = gib(float(odd[0].memory_total_bytes or 0))
        indices = ",".join(str(one.index) for one in odd)
        yield warn(
            "devices",
            "E223",
            f"加速卡 {indices} 显存 {size}，{device.display_name} 应有 {device.memory_gib:g} GiB",
            f"device {indices} has {size} of memory, a {device.display_name} has {device.memory_gib:g} GiB",
            owner="vendor",
            fix=seen.there(" ".join(wanted.vendor.probe.argv)) if wanted.vendor.probe else None,
            shown=size,
        )


def _is_named(model: str, names: str) -> bool:
    """Whether a tool's name of a device has a word of ours that tells models apart: one with a figure."""
    words = {word for word in re.findall(r"[a-z0-9]+", names.lower()) if re.search(r"[0-9]", word)}
    said = re.sub(r"[^a-z0-9]", "", model.lower())
    return not words or any(word in said for word in words)


def idle(seen: Seen, wanted: Expected) -> Iterator[Check]:
    problems = [*_locked(seen), *_held(seen), *_used(seen, wanted)]
    if not problems and wanted.vendor.torch.device_type == "cpu":
        problems = [*_loaded(seen)]
    if problems:
        yield from problems
    elif wanted.vendor.torch.device_type != "cpu" and not samples(seen, wanted):
        yield unasked("idle", "探针没有回答，不知是否空闲", "the probe says nothing: not known")
    else:
        hidden = int(seen.looked.get("hidden") or 0)
        zh = f"空闲（{hidden} 个其他用户的进程看不到）" if hidden else "空闲"
        en = f"idle ({hidden} processes of other users cannot be seen into)" if hidden else "idle"
        yield ok("idle", zh, en)


def _locked(seen: Seen) -> Iterator[Check]:
    if seen.lock is None:
        return
    owner = seen.lock
    who = f"{owner.get('user', '?')}@{owner.get('host', '?')} pid {owner.get('pid', '?')}"
    run, since = owner.get("run", "?"), owner.get("since", "?")
    yield bad(
        "idle",
        "E224",
        f"被运行 {run} 占用（{who}，自 {since}）",
        f"held by run {run} ({who}, since {since})",
        owner="user",
        fix=seen.there("cat /tmp/nx8.lock/owner.json", "docker ps --filter label=nx8.run"),
        shown="lock",
    )


def _held(seen: Seen) -> Iterator[Check]:
    held = seen.looked.get("holders") or []
    if not held:
        return
    ones = ", ".join(
        f"{one['files'][0]}: pid {one['pid']} ({one['command']}, {one['user'] or '?'})" for one in held[:4]
    )
    pids = ",".join(str(one["pid"]) for one in held[:8])
    yield bad(
        "idle",
        "E224",
        f"加速卡被占用：{ones}",
        f"devices are in use: {ones}",
        owner="user",
        fix=seen.there(f"ps -o pid,user,lstart,args -p {pids}"),
        shown=f"pid {held[0]['pid']}",
    )


def _used(seen: Seen, wanted: Expected) -> Iterator[Check]:
    busy = []
    for one in samples(seen, wanted):
        limit = max(IDLE_BYTES, IDLE_FRACTION * (one.memory_total_bytes or 0))
        if (one.memory_used_bytes or 0) > limit:
            busy.append((one.index, gib(float(one.memory_used_bytes or 0))))
        elif (one.utilisation or 0.0) > BUSY_UTILISATION:
            busy.append((one.index, f"{100 * (one.utilisation or 0.0):.0f} %"))
    if busy and not seen.looked.get("holders"):
        ones = ", ".join(f"{index}: {what}" for index, what in busy)
        probe = wanted.vendor.probe
        yield bad(
            "idle",
            "E224",
            f"加速卡不空闲：{ones}",
            f"devices are not idle: {ones}",
            owner="user",
            fix=seen.there(" ".join(probe.argv) if probe else "docker ps", "docker ps"),
            shown=",".join(str(index) for index, _ in busy),
        )


def _loaded(seen: Seen) -> Iterator[Check]:
    words = seen.texts.get("/proc/loadavg", "").split()
    cpus = int(seen.hello.get("cpus_allowed") or 0)
    if words and cpus and float(words[0]) > BUSY_LOAD * cpus:
        yield warn(
            "idle",
            "E224",
            f"负载 {words[0]}（{cpus} 个处理器）：速度数字会偏低",
            f"load {words[0]} on {cpus} processors: speeds will come out low",
            owner="user",
            fix=seen.there("ps -eo pid,user,pcpu,args --sort=-pcpu | head"),
            shown=words[0],
        )
