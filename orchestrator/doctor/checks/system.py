"""How the node's system is set: clock, names, the way to its peers, and what slows training down. Pure."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from orchestrator.doctor.checks.making import bad, missed, ok, unasked, warn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.doctor.expected import Expected
    from orchestrator.doctor.findings import Check
    from orchestrator.doctor.seen import Seen

SKEW_S, LOUD_SKEW_S = 2.0, 60.0
#: A rank opens some thousand files and sockets on a large cluster.
LEAST_NOFILE = 65536
NOFILE_DROP_IN = "/etc/systemd/system/docker.service.d/nofile.conf"


def clock(seen: Seen) -> Iterator[Check]:
    skew, rtt = seen.hello.get("skew_s"), float(seen.hello.get("rtt_s") or 0.0)
    if skew is None:
        yield missed("clock", "?")
        return
    if abs(skew) - rtt / 2 <= SKEW_S:
        yield ok("clock", f"相差 {skew:+.2f} s", f"{skew:+.2f} s from here", shown=f"{abs(skew):.1f} s")
        return
    far_zh, far_en = ("快", "ahead") if skew > 0 else ("慢", "behind")
    loud_zh = "：证书与日志也会出错" if abs(skew) > LOUD_SKEW_S else "：各节点的日志对不上"
    loud_en = (
        "certificates and logs go wrong too" if abs(skew) > LOUD_SKEW_S else "logs of nodes will not line up"
    )
    yield warn(
        "clock",
        "E226",
        f"时钟{far_zh} {abs(skew):.1f} s{loud_zh}",
        f"its clock is {abs(skew):.1f} s {far_en}: {loud_en}",
        fix=seen.there("chronyc makestep || systemctl restart systemd-timesyncd", root=True),
        shown=f"{skew:+.1f} s",
    )


def names(seen: Seen) -> Iterator[Check]:
    found = seen.looked.get("names")
    if not found:
        yield missed("names", seen.missed.get("examine", "?"))
        return
    own = str(seen.looked.get("hostname"))
    problems = False
    for name, answer in found.items():
        if answer["addresses"]:
            continue
        problems = True
        address = seen.address.rpartition("@")[2].partition(":")[0]
        hosts = seen.there(f"echo {address} {own} >> /etc/hosts", root=True)
        yield bad(
            "names",
            "E227",
            f"自己的主机名 {name} 解析不出：{answer.get('text')}"
            if name == own
            else f"解析不出 {name}：{answer.get('text')}",
            f"its own hostname {name} does not resolve: {answer.get('text')}"
            if name == own
            else f"{name} does not resolve there: {answer.get('text')}",
            fix=hosts if name == own else seen.there(f"getent hosts {name}"),
            shown=name[:12],
        )
    if found.get(own, {}).get("addresses") and not seen.looked.get("own"):
        problems = True
        where = found[own]["addresses"][0]
        yield bad(
            "names",
            "E227",
            f"自己的主机名 {own} 解析到 {where}，那不是本节点的地址",
            f"its own hostname {own} resolves to {where}, which is not an address of it",
            fix=seen.there('grep -n "$(hostname)" /etc/hosts; hostname -I'),
            shown=where,
        )
    if not problems:
        yield ok("names", "名字都能解析", "all names resolve")


def system(seen: Seen) -> Iterator[Check]:
    problems = [*_swap(seen), *_governor(seen), *_kernel(seen), *_limits(seen)]
    if problems:
        yield from problems
    elif not seen.texts:
        yield missed("system", seen.missed.get("kernel", "?"))
    else:
        yield ok("system", "系统设置正常", "nothing that slows training down")


def _swap(seen: Seen) -> Iterator[Check]:
    used = [line.split() for line in seen.texts.get("/proc/swaps", "").splitlines()[1:] if line.split()]
    if used:
        size = sum(int(words[2]) for words in used if len(words) > 2 and words[2].isdigit()) / 1024**2
        yield warn(
            "system",
            "E229",
            f"交换区已启用（{size:.3g} GiB）：一旦换页，某一步会突然变慢",
            f"swap is on ({size:.3g} GiB): when pages go there, steps become slow without a word",
            fix=seen.there("swapoff -a", root=True),
            shown="swap",
        )


def _governor(seen: Seen) -> Iterator[Check]:
    found = {text.strip() for path, text in seen.texts.items() if path.endswith("/cpufreq/scaling_governor")}
    slow = sorted(found - {"performance", ""})
    if slow:
        yield warn(
            "system",
            "E229",
            f"CPU 调频策略是 {', '.join(slow)}，不是 performance",
            f"the CPU governor is {', '.join(slow)}, not performance",
            fix=seen.there("cpupower frequency-set -g performance", root=True),
            shown=slow[0],
        )


def _kernel(seen: Seen) -> Iterator[Check]:
    if seen.texts.get("/proc/sys/kernel/numa_balancing", "").strip() not in ("", "0"):
        yield warn(
            "system",
            "E229",
            "numa_balancing 已开启：内核会在训练中搬动内存页",
            "numa_balancing is on: the kernel moves pages about while ranks compute",
            fix=seen.there("sysctl -w kernel.numa_balancing=0", root=True),
            shown="numa",
        )
    huge = re.search(r"\[(\w+)\]", seen.texts.get("/sys/kernel/mm/transparent_hugepage/enabled", ""))
    if huge and huge[1] == "never":
        yield warn(
            "system",
            "E229",
            "透明大页（THP）关闭",
            "transparent huge pages are off",
            fix=seen.there("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled", root=True),
            shown="thp",
        )


def _limits(seen: Seen) -> Iterator[Check]:
    """What containers inherit from docker's daemon."""
    files = str((seen.looked.get("limits") or {}).get("Max open files", ""))
    if files.isdigit() and int(files) < LEAST_NOFILE:
        yield warn(
            "system",
            "E229",
            f"容器最多打开 {files} 个文件，建议 {LEAST_NOFILE} 以上",
            f"containers may open {files} files; {LEAST_NOFILE} or more is better",
            fix=seen.there(
                "mkdir -p /etc/systemd/system/docker.service.d",
                f"(echo [Service]; echo LimitNOFILE=1048576) > {NOFILE_DROP_IN}",
                "systemctl daemon-reload",
                "systemctl restart docker",
                root=True,
            ),
            shown="nofile",
        )


def peers(seen: Seen, wanted: Expected, nodes: Sequence[Seen]) -> Iterator[Check]:
    """Whether ranks could meet: the port, and every other node's way here and from here. A node that none of
    several others reaches is the one that is told; else the one that does not get through.
    """
    lacking = wanted.no_address.get(seen.name)
    if lacking is not None:
        yield bad(
            "peers",
            lacking.code,
            f"rank 没有会合的地址：{lacking.message}",
            f"there is no address where ranks could meet: {lacking.message}",
            owner="user",
            fix=f"grep -n {shlex.quote(seen.name)} cluster/{wanted.cluster_name}.yaml ~/.ssh/config",
            shown="address",
        )
        return
    if seen.met is None:
        why = seen.missed.get("meet")
        if why is not None:
            yield missed("peers", why)
        elif wanted.port in (seen.looked.get("listening") or ()) and _is_first(seen, wanted):
            yield _taken(seen, wanted.port)
        return
    problems = []
    if seen.met.taken is not None and _is_first(seen, wanted):
        problems.append(_taken(seen, wanted.port))
    cut_off = {one.name for one in nodes if _is_cut_off(one, nodes)}
    if seen.name in cut_off:
        problems.append(_cut_off(seen, wanted, nodes))
    others = [one for one in nodes if one.met is not None and one.name != seen.name]
    problems += [
        _unreached(seen, wanted, one, seen.met.why.get(one.name, "no answer"))
        for one in others
        if one.name not in seen.met.reached and one.name not in cut_off and seen.name not in cut_off
    ]
    if problems:
        yield from problems
    elif not others:
        yield unasked("peers", "没有其他节点可连", "no other node was there to be reached")
    else:
        number = len(others)
        yield ok("peers", f"能连到其余 {number} 个节点", f"reaches the {number} others", shown=str(number))


def _is_first(seen: Seen, wanted: Expected) -> bool:
    return wanted.cluster.nodes[0].name == seen.name


def _is_cut_off(seen: Seen, nodes: Sequence[Seen]) -> bool:
    """Whether two others at least tried to reach it, and none did."""
    tried = [one.met for one in nodes if one.met is not None and one.name != seen.name]
    return len(tried) > 1 and not any(seen.name in one.reached for one in tried)


def _fabric(wanted: Expected, name: str) -> str:
    return wanted.addresses.get(name, name)


def _cut_off(seen: Seen, wanted: Expected, nodes: Sequence[Seen]) -> Check:
    where = f"{_fabric(wanted, seen.name)}:{wanted.port}"
    why = next((one.met.why.get(seen.name, "?") for one in nodes if one.met and one.name != seen.name), "?")
    return bad(
        "peers",
        "E227",
        f"其他节点都连不到这里（{where}）：{why}",
        f"no other node reaches it ({where}): {why}",
        fix=seen.there("iptables -S | head -n 30", "ip -br address", root=True),
        shown="cut off",
    )


def _unreached(seen: Seen, wanted: Expected, target: Seen, why: str) -> Check:
    where = f"{_fabric(wanted, target.name)}:{wanted.port}"
    return bad(
        "peers",
        "E227",
        f"从这里连不到 {target.name}（{where}）：{why}",
        f"{target.name} ({where}) cannot be reached from here: {why}",
        fix=target.there(f"iptables -S | grep -n {_fabric(wanted, seen.name)} || iptables -S", root=True),
        shown=target.name,
    )


def _taken(seen: Seen, port: int) -> Check:
    return bad(
        "peers",
        "E235",
        f"端口 {port} 已被占用",
        f"port {port}, where ranks would meet, is taken",
        fix=seen.there(f"ss -ltnp 'sport = :{port}'", root=True),
        shown=str(port),
    )
