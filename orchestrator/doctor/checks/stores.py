"""Is there room, and are data and image what the plan means? Pure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from orchestrator.doctor.checks.making import bad, gib, missed, ok, unasked, warn
from orchestrator.preflight import LEAST_FREE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.doctor.expected import Expected
    from orchestrator.doctor.findings import Check
    from orchestrator.doctor.seen import Seen

#: A vendor's image is 10 to 40 GB; below this none fits beside its layers. Only a warning: it may be there.
LOW_IMAGE_BYTES = 20 * 1024**3
LEAST_INODES = 10_000


def disk(seen: Seen, wanted: Expected) -> Iterator[Check]:
    problems = [*_links(seen, wanted), *_room(seen, wanted)]
    if problems:
        yield from problems
        return
    if not seen.disks:
        yield missed("disk", seen.missed.get("disk", "?"))
        return
    least = min(seen.disks.values(), key=lambda one: one.available_bytes)
    said = ", ".join(f"{one.path} {gib(one.available_bytes)}" for one in seen.disks.values())
    yield ok("disk", f"可用：{said}", f"free: {said}", shown=gib(least.available_bytes))


def _links(seen: Seen, wanted: Expected) -> Iterator[Check]:
    for key, link in seen.crooked.items():
        path = str(getattr(wanted.cluster, key))
        yield bad(
            "disk",
            "E247",
            f"{key} {path} 经过符号链接 {link}",
            f"{key} {path} goes through a link: {link}",
            owner="user",
            fix=seen.there(f"realpath {shlex.quote(path)}"),
            shown="link",
        )


def _room(seen: Seen, wanted: Expected) -> Iterator[Check]:
    missing = sum(
        one.bytes for one in wanted.files if (held := seen.files.get(one.path)) and held.bytes is None
    )
    told: set[tuple[int, int]] = set()
    for key, one in seen.disks.items():
        least = {"work_dir": LEAST_FREE_BYTES, "data_dir": missing, "docker": 0}.get(key, 0)
        usage = seen.there(f"df -h {shlex.quote(one.at)}", f"du -xhd1 {shlex.quote(one.at)} | sort -h | tail")
        if one.writable is False:
            user = str(seen.hello.get("user") or "?")
            yield bad(
                "disk",
                "E234",
                f"用户 {user} 不能写 {key} {one.path}",
                f"user {user} may not write to {key} {one.path}",
                fix=seen.there(
                    f"install -d -o {shlex.quote(user)} {shlex.quote(one.path)}",
                    root=True,
                ),
                shown="ro",
            )
        elif one.available_bytes < least:
            # Folders of one file system lack the same room; said once.
            if (one.total_bytes, one.available_bytes) in told:
                continue
            told.add((one.total_bytes, one.available_bytes))
            yield bad(
                "disk",
                "E234",
                f"{key} {one.path} 只剩 {gib(one.available_bytes)}，至少要 {gib(least)}",
                f"{key} {one.path} has {gib(one.available_bytes)} left, {gib(least)} are needed",
                fix=usage,
                shown=gib(one.available_bytes),
            )
        elif 0 < one.free_inodes < LEAST_INODES:
            yield bad(
                "disk",
                "E234",
                f"{one.path} 的 inode 只剩 {one.free_inodes} 个",
                f"{one.path} has {one.free_inodes} inodes left",
                fix=usage,
                shown="inodes",
            )
        elif key == "docker" and one.available_bytes < LOW_IMAGE_BYTES:
            yield warn(
                "disk",
                "E234",
                f"docker 的目录 {one.path} 只剩 {gib(one.available_bytes)}，厂商镜像可能装不下",
                f"docker's {one.path} has {gib(one.available_bytes)} left; a vendor's image may not fit",
                fix=seen.there("docker system df"),
                shown=gib(one.available_bytes),
            )


def data(seen: Seen, wanted: Expected) -> Iterator[Check]:
    if not wanted.files:
        yield unasked("data", "没有要分发的数据", "nothing to be handed out is known here")
        return
    if "data" in seen.missed:
        yield missed("data", seen.missed["data"])
        return
    folder = wanted.cluster.data_dir
    absent: dict[str, int] = {}
    unread = 0
    problems = 0
    for one in wanted.files:
        held = seen.files.get(one.path)
        if held is None or held.bytes is None:
            absent[one.name] = absent.get(one.name, 0) + one.bytes
        elif held.bytes != one.bytes or (held.sha256 is not None and held.sha256 != one.sha256):
            problems += 1
            path = f"{folder}/{one.path}"
            why_zh = (
                f"{held.bytes} 字节，应为 {one.bytes}" if held.bytes != one.bytes else f"sha256 {held.sha256}"
            )
            why_en = (
                f"{held.bytes} bytes, not {one.bytes}" if held.bytes != one.bytes else f"sha256 {held.sha256}"
            )
            yield bad(
                "data",
                "E237",
                f"{path} 不是计划的数据：{held.why or why_zh}",
                f"{path} is not the data of the plan: {held.why or why_en}",
                owner="user",
                fix=seen.there(f"mv {shlex.quote(path)} {shlex.quote(path + '.wrong')}")
                + f" && nx8 data push {one.name} --cluster {wanted.cluster_name}",
                shown="size" if held.bytes != one.bytes else "sha256",
            )
        elif held.sha256 is None:
            unread += one.bytes
    for name, size in absent.items():
        problems += 1
        yield warn(
            "data",
            "E237",
            f"没有数据 {name}（{gib(size)}），运行开始时才会分发",
            f"the data {name} is not there yet ({gib(size)}); the next run copies it first",
            owner="user",
            fix=f"nx8 data push {name} --cluster {wanted.cluster_name}",
            shown="-",
        )
    if not problems:
        zh = f"大小相符，{gib(unread)} 未校验" if unread else "校验和相符"
        en = f"sizes are right, checksums of {gib(unread)} were not read" if unread else "checksums are right"
        yield ok("data", zh, en)


def registry(seen: Seen, wanted: Expected) -> Iterator[Check]:
    """Whether what the node has to pull can be had: by a connection, as far as no proxy stands between."""
    if wanted.is_local:
        return
    if not wanted.registries:
        yield unasked("registry", "不用镜像仓库", "no registry is needed")
        return
    site = wanted.cluster.site
    if site.http_proxy or site.https_proxy or (seen.engine is not None and seen.engine.proxied):
        yield unasked("registry", "经由代理，未检查", "behind a proxy: not tried")
        return
    told = seen.looked.get("registries")
    if told is None:
        yield missed("registry", seen.missed.get("examine", "?"))
        return
    names = ", ".join(wanted.registries)
    lost = {place: why for place, why in told.items() if why is not None}
    if not lost:
        yield ok("registry", f"可达：{names}", f"reached: {names}")
        return
    if seen.engine is None:
        yield unasked("registry", "docker 不可用，未检查", "not looked at: docker does not work")
        return
    if "images" in seen.missed:
        yield missed("registry", seen.missed["images"])
        return
    lacking = _to_be_pulled(seen, wanted)
    if not lacking:
        yield ok("registry", "不可达，但镜像已在节点上", "not reached, but the images are there already")
        return
    for place, why in lost.items():
        yield (bad if wanted.pulled is not None else warn)(
            "registry",
            "E261",
            f"连不上镜像仓库 {place}：{why}；节点上没有 {lacking}",
            f"the registry {place} is not reached: {why}; {lacking} is not on the node",
            fix=seen.there(f"curl -sS -m 10 -o /dev/null https://{place}/v2/"),
            shown=place,
        )


def _to_be_pulled(seen: Seen, wanted: Expected) -> str | None:
    """The first image that has to come from a registry, as far as the node says what it holds."""
    if wanted.pulled is not None:
        return wanted.pulled if seen.images.get(wanted.pulled) is None else None
    absent = (
        one.base for one in wanted.images if not (seen.images.get(one.tag) or seen.images.get(one.base))
    )
    return next(absent, None)


def image(seen: Seen, wanted: Expected) -> Iterator[Check]:
    if wanted.is_local:
        return
    if not wanted.images:
        yield unasked("image", "没有可检查的镜像", "no image is known here")
        return
    if seen.engine is None:
        yield unasked("image", "docker 不可用，未检查", "not looked at: docker does not work")
        return
    for one in wanted.images:
        found = seen.images.get(one.tag)
        if found is None:
            yield unasked("image", f"{one.tag} 尚未构建", f"{one.tag} is not built yet")
        elif not one.labels.items() <= found.labels.items():
            yield warn(
                "image",
                "E246",
                f"标签 {one.tag} 指向另一个镜像 {found.id[:19]}",
                f"the tag {one.tag} names another image, {found.id[:19]}",
                owner="user",
                fix=seen.there(f"docker image rm {one.tag}"),
                shown=found.id[7:15],
            )
        else:
            yield ok(
                "image", f"{one.tag} {found.id[:19]}", f"{one.tag} {found.id[:19]}", shown=found.id[7:15]
            )
