"""The network devices that ranks talk through: there, up, and as fast as they can be. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from orchestrator import facts
from orchestrator.doctor.checks.making import bad, ok, warn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.doctor.expected import Expected
    from orchestrator.doctor.findings import Check
    from orchestrator.doctor.seen import Seen

RDMA = "/sys/class/infiniband"
#: A problem names so many ports, and counts the rest.
MOST_PORTS = 4


class Port(NamedTuple):
    """A port of an RDMA device, as the kernel says it. `rate_gbps` is what it carries now; `alike` is what
    ports that should carry the same have in common: link layer and model.
    """

    name: str
    state: str
    physical: str
    rate_gbps: float | None
    alike: tuple[str, str]

    @property
    def is_active(self) -> bool:
        return self.state == "ACTIVE"


def network(seen: Seen, wanted: Expected) -> Iterator[Check]:
    interface = wanted.cluster.interface
    machine = facts.machine(seen.texts, interface=interface)
    problems = [*_interface(seen, interface), *_down(seen), *_slow(seen), *_narrow(seen)]
    if problems:
        yield from problems
        return
    said = (
        ", ".join(
            f"{one.links}× {one.kind} {one.interface}" + (f" {one.rate_gbps:g} Gb/s" if one.rate_gbps else "")
            for one in machine.network
        )
        or "–"
    )
    fast = max((one.rate_gbps or 0 for one in machine.network), default=0)
    yield ok("network", said, said, shown=f"{fast:g}G" if fast else "")


def _interface(seen: Seen, interface: str | None) -> Iterator[Check]:
    if interface is None or not seen.texts:
        return
    folder = f"/sys/class/net/{interface}"
    if f"{folder}/type" not in seen.texts:
        yield bad(
            "network",
            "E228",
            f"没有网络设备 {interface}",
            f"there is no network device {interface}",
            owner="user",
            fix=seen.there("ip -br link"),
            shown=interface,
        )
        return
    state = seen.texts.get(f"{folder}/operstate", "").strip()
    if state in ("down", "lowerlayerdown", "dormant", "notpresent"):
        yield bad(
            "network",
            "E228",
            f"网络设备 {interface} 状态 {state}",
            f"the network device {interface} is {state}",
            fix=seen.there(f"ip link set {interface} up", root=True),
            shown=state,
        )
    elif seen.texts.get(f"{folder}/carrier", "").strip() == "0":
        # A driver that does not say its state ("unknown") still says this.
        yield bad(
            "network",
            "E228",
            f"网络设备 {interface} 没有载波：线缆或交换机端口",
            f"the network device {interface} has no carrier: its cable, or the switch's port",
            fix=seen.there(f"ip -s link show {interface}", f"ethtool {interface}", root=True),
            shown="carrier",
        )


def ports(seen: Seen) -> tuple[Port, ...]:
    """Every RDMA port, active or not, by name."""

    def of(path: str) -> str:
        """`4: ACTIVE` without its number."""
        text = seen.texts.get(path, "").strip()
        return text.partition(": ")[2] or text

    found = []
    for path in sorted(seen.texts):
        match = re.fullmatch(rf"({RDMA}/([^/]+))/ports/([^/]+)/state", path)
        if match:
            folder = path.removesuffix("/state")
            rate = re.match(r"([0-9]+(?:\.[0-9]+)?) Gb/sec", of(f"{folder}/rate"))
            found.append(
                Port(
                    name=f"{match[2]}:{match[3]}",
                    state=of(path),
                    physical=of(f"{folder}/phys_state"),
                    rate_gbps=float(rate[1]) if rate else None,
                    alike=(of(f"{folder}/link_layer"), of(f"{match[1]}/hca_type")),
                )
            )
    return tuple(found)


def _down(seen: Seen) -> Iterator[Check]:
    """Ports that are there and carry nothing, with what the wire does: Disabled, Polling …"""
    every = ports(seen)
    down = [one for one in every if not one.is_active]
    if down:
        shown = _listed(
            f"{one.name} {one.state}" + (f" ({one.physical})" if one.physical else "") for one in down
        )
        active = any(one.is_active for one in every)
        yield warn(
            "network",
            "E228",
            f"RDMA 端口未激活：{shown}" + ("" if active else "（没有一个激活）"),
            f"RDMA ports are not active: {shown}" + ("" if active else " (none is)"),
            fix=seen.there("ibstat || rdma link"),
            shown=down[0].name,
        )


def _slow(seen: Seen) -> Iterator[Check]:
    """Active ports that carry less than others of the same kind and model."""
    best: dict[tuple[str, str], float] = {}
    active = [one for one in ports(seen) if one.is_active and one.rate_gbps is not None]
    for one in active:
        best[one.alike] = max(best.get(one.alike, 0.0), one.rate_gbps or 0.0)
    slow = [one for one in active if (one.rate_gbps or 0.0) < best[one.alike]]
    if slow:
        zh = _listed(f"{one.name} {one.rate_gbps:g} Gb/s，同类 {best[one.alike]:g}" for one in slow)
        en = _listed(f"{one.name} {one.rate_gbps:g} Gb/s, others {best[one.alike]:g}" for one in slow)
        yield warn(
            "network",
            "E228",
            f"RDMA 端口速率低于同类端口：{zh}",
            f"RDMA ports are slower than others of their kind: {en}",
            fix=seen.there("ibstat || rdma link"),
            shown=f"{slow[0].rate_gbps:g}G",
        )


def _narrow(seen: Seen) -> Iterator[Check]:
    """RDMA devices whose PCIe link came up slower or with fewer lanes than they can do."""
    found = []
    for path in sorted(seen.texts):
        match = re.fullmatch(rf"{RDMA}/([^/]+)/device/current_link_speed", path)
        if match:
            folder = path.removesuffix("/current_link_speed")
            now, most = _link(seen, folder, "current"), _link(seen, folder, "max")
            if any(
                one is not None and other is not None and one < other
                for one, other in zip(now, most, strict=True)
            ):
                found.append((match[1], _said(now), _said(most)))
    if found:
        zh = _listed(f"{name} {now}，可达 {most}" for name, now, most in found)
        en = _listed(f"{name} {now} of {most}" for name, now, most in found)
        name = found[0][0]
        yield warn(
            "network",
            "E228",
            f"RDMA 设备的 PCIe 链路降速：{zh}",
            f"the PCIe link of RDMA devices is below what they can do: {en}",
            fix=seen.there(
                f"lspci -vv -s $(basename $(readlink -f {RDMA}/{name}/device)) | grep -i lnk", root=True
            ),
            shown=found[0][1],
        )


def _link(seen: Seen, folder: str, which: str) -> tuple[float | None, int | None]:
    """Speed in GT/s and lanes of a PCIe link; null where it does not say (a virtual function, lanes 0)."""
    speed = re.match(r"([0-9]+(?:\.[0-9]+)?) GT/s", seen.texts.get(f"{folder}/{which}_link_speed", ""))
    width = seen.texts.get(f"{folder}/{which}_link_width", "").strip()
    return (
        float(speed[1]) if speed else None,
        int(width) if width.isdigit() and 0 < int(width) < 64 else None,
    )


def _said(link: tuple[float | None, int | None]) -> str:
    speed, lanes = link
    return f"{'?' if speed is None else f'{speed:g}'} GT/s x{lanes or '?'}"


def _listed(words: Iterator[str]) -> str:
    ones = list(words)
    more = f" … ({len(ones)})" if len(ones) > MOST_PORTS else ""
    return ", ".join(ones[:MOST_PORTS]) + more
