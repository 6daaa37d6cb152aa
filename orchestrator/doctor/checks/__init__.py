"""What was seen → checks, one row of the table after the other. Pure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from orchestrator.doctor.checks import devices, network, reach, skew, stores, system
from orchestrator.doctor.checks.making import missed, unasked
from orchestrator.doctor.findings import NodeFindings
from orchestrator.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.doctor.expected import Expected
    from orchestrator.doctor.findings import Check
    from orchestrator.doctor.seen import Seen

#: The rows, in order, as they are called in both languages.
ROWS = {
    "ssh": Message("SSH 登录", "ssh"),
    "python3": Message("python3", "python3"),
    "torch": Message("训练模块", "torch"),
    "docker": Message("docker", "docker"),
    "runtime": Message("容器运行时", "container runtime"),
    "devices": Message("加速卡", "devices"),
    "idle": Message("空闲", "idle"),
    "driver": Message("驱动与固件", "driver, firmware"),
    "disk": Message("磁盘", "disk"),
    "data": Message("数据", "data"),
    "image": Message("镜像", "image"),
    "registry": Message("镜像仓库", "registry"),
    "peers": Message("节点互通", "peers, port"),
    "names": Message("名字解析", "names"),
    "network": Message("网络链路", "network"),
    "clock": Message("时钟", "clock"),
    "system": Message("系统设置", "system"),
    "same": Message("节点一致", "alike"),
}

#: Question → the rows that its answer is part of: without it such a row may say what is wrong, never that
#: all is well. The other questions' rows say so themselves.
ROWS_OF = {
    "kernel": ("network",),
    "lock": ("idle",),
    "examine": ("idle", "disk", "system"),
    "vendor": ("idle", "driver"),
    "devices": ("devices",),
    "links": ("disk",),
    "disk": ("disk",),
    "images": ("image",),
}


def judged(nodes: Sequence[Seen], wanted: Expected) -> tuple[NodeFindings, ...]:
    """Every node's checks, in the order of the rows."""
    skewed = skew.skewed(nodes, wanted)
    return tuple(_judged(seen, wanted, nodes, skewed.get(seen.name, ())) for seen in nodes)


def _judged(seen: Seen, wanted: Expected, nodes: Sequence[Seen], skewed: tuple[Check, ...]) -> NodeFindings:
    login = shlex.join(seen.login)
    if seen.failure is not None:
        first = tuple(reach.ssh(seen, wanted))
        rest = tuple(
            unasked(name, "无法登录，未检查", "not looked at: no login")
            for name in _rows(wanted)
            if name != "ssh"
        )
        return NodeFindings(name=seen.name, address=seen.address, checks=(*first, *rest), login=login)
    found = _answered([*_own(seen, wanted, nodes), *skewed], seen, wanted)
    order = list(ROWS)
    checks = sorted(found, key=lambda check: order.index(check.name))
    return NodeFindings(name=seen.name, address=seen.address, checks=tuple(checks), login=login)


def _answered(checks: Sequence[Check], seen: Seen, wanted: Expected) -> tuple[Check, ...]:
    """The same, where a question was not answered without its rows' being well."""
    why_of = {row: why for question, why in seen.missed.items() for row in ROWS_OF.get(question, ())}
    if "kernel" in seen.missed and wanted.vendor.torch.device_type == "cpu":
        why_of.setdefault("idle", seen.missed["kernel"])  # its load says whether it is idle
    known = (
        missed(check.name, why_of[check.name])
        if check.name in why_of and check.severity in ("ok", "unasked")
        else check
        for check in checks
    )
    return tuple(dict.fromkeys(known))


def _own(seen: Seen, wanted: Expected, nodes: Sequence[Seen]) -> Iterator[Check]:
    yield from reach.python(seen)
    yield from devices.devices(seen, wanted)
    yield from devices.idle(seen, wanted)
    yield from system.names(seen)
    yield from network.network(seen, wanted)
    yield from system.system(seen)
    yield from system.peers(seen, wanted, nodes)
    yield from stores.disk(seen, wanted)
    if wanted.is_local:
        yield from reach.trains_here(seen)
        return
    yield from reach.ssh(seen, wanted)
    yield from reach.docker(seen)
    yield from reach.runtime(seen, wanted)
    yield from stores.data(seen, wanted)
    yield from stores.image(seen, wanted)
    yield from stores.registry(seen, wanted)
    yield from system.clock(seen)


def _rows(wanted: Expected) -> tuple[str, ...]:
    """The rows that a cluster of this kind has."""
    gone = {"torch", *(() if len(wanted.cluster.nodes) > 1 else ("same", "peers"))}
    return tuple(name for name in ROWS if name not in gone)
