"""What differs between nodes that should be the same. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from orchestrator import facts
from orchestrator.doctor.checks.making import ok, unasked, warn
from orchestrator.versions import accelerators, of, read_versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.doctor.expected import Expected
    from orchestrator.doctor.findings import Check
    from orchestrator.doctor.seen import Seen

#: Row of the table → the facts that are compared in it, with their Chinese names.
ROWS: dict[str, tuple[str, ...]] = {
    "driver": ("driver", "firmware", "model"),
    "same": ("kernel", "os", "docker", "mtu", "links", "cpus", "image"),
}
CHINESE = {
    "driver": "驱动",
    "firmware": "固件",
    "model": "型号",
    "kernel": "内核",
    "os": "操作系统",
    "docker": "docker",
    "mtu": "MTU",
    "links": "网络链路",
    "cpus": "处理器数",
    "image": "镜像",
}


def facts_of(seen: Seen, wanted: Expected) -> dict[str, str]:
    """What of a node is compared, by name; what it did not say is not there."""
    if seen.failure is not None:
        return {}
    found: dict[str, str | None] = {}
    if seen.answers:
        found |= read_versions(of(wanted.vendor, "node"), seen.answers).versions
        found["model"] = accelerators(wanted.vendor, seen.answers).model
    found |= {name: seen.hello.get(name) for name in ("kernel", "os")}
    found["cpus"] = str(seen.hello["cpus"]) if seen.hello.get("cpus") else None
    found["docker"] = seen.docker.version if seen.docker else None
    interface = wanted.cluster.interface
    if interface:
        found["mtu"] = seen.texts.get(f"/sys/class/net/{interface}/mtu", "").strip() or None
    links = facts.machine(seen.texts, interface=interface).network
    found["links"] = ", ".join(
        f"{one.links}× {one.kind}" + (f" {one.rate_gbps:g} Gb/s" if one.rate_gbps else "") for one in links
    )
    for one in wanted.images:
        image = seen.images.get(one.tag)
        if image is not None:
            found["image"] = f"{one.tag} {image.id[:19]}"
    return {name: str(value) for name, value in found.items() if value}


def skewed(nodes: Sequence[Seen], wanted: Expected) -> dict[str, tuple[Check, ...]]:
    """By node its checks of the rows above: a node is told where it is not as most others are; where no value
    has most, every node is.
    """
    told = {seen.name: facts_of(seen, wanted) for seen in nodes if seen.failure is None}
    usual = {
        name: _usual({node: one[name] for node, one in told.items() if name in one})
        for row in ROWS.values()
        for name in row
    }
    return {
        seen.name: tuple(
            check
            for row in ROWS
            if row == "driver" or len(nodes) > 1
            for check in _row(row, seen, told[seen.name], told, usual, wanted)
        )
        for seen in nodes
        if seen.name in told
    }


def _usual(values: Mapping[str, str]) -> str | None:
    """The value that more nodes have than any other; None where two are as many."""
    common = Counter(values.values()).most_common(2)
    if not common or (len(common) == 2 and common[0][1] == common[1][1]):
        return None
    return common[0][0]


def _row(
    row: str,
    seen: Seen,
    own: Mapping[str, str],
    told: Mapping[str, Mapping[str, str]],
    usual: Mapping[str, str | None],
    wanted: Expected,
) -> list[Check]:
    problems = []
    for name in ROWS[row]:
        values = {node: one[name] for node, one in told.items() if name in one}
        if name not in own or len(set(values.values())) < 2 or own[name] == usual[name]:
            continue
        rest = sorted({value for node, value in values.items() if node != seen.name and value != own[name]})
        others = usual[name] or " / ".join(rest)
        problems.append(
            warn(
                row,
                "E225",
                f"{CHINESE[name]} {own[name]}，其他节点是 {others}：结果不可比",
                f"{name} {own[name]}, others {others}: mixed nodes make results not comparable",
                owner="vendor" if name == "firmware" else "node",
                fix=seen.there(_command(name, wanted)),
                shown=own[name][:12],
            )
        )
    if problems:
        return problems
    said = ", ".join(f"{name} {own[name]}" for name in ROWS[row] if name in own)
    if not said and wanted.vendor.torch.device_type == "cpu":
        return []
    if not said:
        return [unasked(row, "厂商工具没有说出版本", "the vendor's tools do not say it")]
    first = own.get("driver", "") if row == "driver" else ""
    return [ok(row, said, said, shown=first[:12])]


def _command(name: str, wanted: Expected) -> str:
    """What shows it on the node."""
    command = wanted.vendor.versions.get(name)
    if command is not None:
        return " ".join(command.argv)
    if name == "model" and wanted.vendor.model is not None:
        return " ".join(wanted.vendor.model.argv)
    interface = wanted.cluster.interface or ""
    return {
        "kernel": "uname -r; dpkg -l 'linux-image*'",
        "os": "cat /etc/os-release",
        "docker": "docker version",
        "mtu": f"ip link show {interface}",
        "links": f"ibstat || ip link show {interface}",
        "cpus": "lscpu",
        "image": "docker image ls --digests",
    }.get(name, "true")
