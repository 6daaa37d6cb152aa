#!/usr/bin/python3 -I
"""The probe tool of accelerators that are not there: the vendor's format, this node's real figures.

Memory is what the ranks in this node's containers hold (proportional set size, so pages that ranks share
count once), and the capacity is the machine's memory split over the node's devices. All else is not
available, unless a fault test says otherwise in `script`. Any other command line than the probe's is refused.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

SETTINGS = Path("/etc/nx8/accelerator.json")
PLACE = re.compile(r"\{([a-z_]+)(?::([<>])([0-9]{1,2}))?\}")


def main() -> int:
    settings = json.loads(SETTINGS.read_text())
    form, tool = settings["form"], Path(sys.argv[0]).name
    if [tool, *sys.argv[1:]] != [Path(form["argv"][0]).name, *form["argv"][1:]]:
        sys.stderr.write(f"{tool}: this stand-in knows only: {' '.join(form['argv'])}\n")
        return 2
    sys.stdout.write(drawn(figures(settings), form, settings["names"]))
    return 0


def drawn(devices: list[dict[str, float]], form: dict[str, Any], names: list[str]) -> str:
    """The same text as probe.render_probe makes; a test holds the two together."""
    lines = list(form["head"])
    for index, values in enumerate(devices):
        words = {name: word(values.get(name), form, name, values) for name in names}
        words["index"] = str(index)
        lines += [PLACE.sub(lambda place, words=words: put(place, words), line) for line in form["each"]]  # type: ignore[misc]
    return "".join(f"{line}\n" for line in (*lines, *form["foot"]))


def put(place: re.Match[str], words: dict[str, str]) -> str:
    text, side, width = words[place[1]], place[2], int(place[3] or 0)
    return text.rjust(width) if side == ">" else text.ljust(width)


def word(value: float | None, form: dict[str, Any], name: str, values: dict[str, float]) -> str:
    column = form["quantities"].get(name)
    if value is None or column is None:
        return str(form["not_available"])
    factor = column["factor"]
    if column["of_capacity"]:
        if not values.get("memory_total"):
            return str(form["not_available"])
        factor *= values["memory_total"]
    return f"{value / factor:.{column['decimals']}f}{column['suffix']}"


def figures(settings: dict[str, Any]) -> list[dict[str, float]]:
    """By device: quantity → value in °C, W, bytes or as a fraction."""
    devices = settings["devices"]
    used, total = memory_used(devices, settings["cgroup"]), memory_total() // devices
    script = settings.get("script") or [{}] * devices
    return [{"memory_used": used[index], "memory_total": total, **script[index]} for index in range(devices)]


def memory_total() -> int:
    return kib(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo"))


def kib(regex: str, file: Path) -> int:
    found = re.search(regex, file.read_text(), re.M)
    if found is None:
        raise OSError(f"{file}: no {regex}")
    return int(found[1]) << 10


def memory_used(devices: int, cgroup: str) -> list[int]:
    """Bytes per device: each rank counts on its own one; what belongs to no rank is split evenly."""
    used, shared = [0] * devices, 0
    for process in (entry for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        try:
            if not in_container(process, cgroup):
                continue
            size, rank = resident(process), rank_of(process)
        except OSError:
            continue  # it ended meanwhile
        if rank is None:
            shared += size
        else:
            used[rank % devices] += size
    return [own + shared // devices for own in used]


def in_container(process: Path, cgroup: str) -> bool:
    """Docker puts a container's processes below the node's own group, in a group named by its id."""
    groups = (process / "cgroup").read_text()
    return re.search(rf"/{re.escape(cgroup)}(/[^/\n]+)*/[0-9a-f]{{64}}", groups) is not None


def resident(process: Path) -> int:
    try:
        return kib(r"^Pss:\s+(\d+) kB", process / "smaps_rollup")
    except OSError:
        return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def rank_of(process: Path) -> int | None:
    """The rank a process says it is: in its environment, or by the log that it writes."""
    said = re.search(rb"(?:^|\0)LOCAL_RANK=(\d+)\0", (process / "environ").read_bytes())
    if said:
        return int(said[1])
    try:
        wrote = re.search(r"/rank(\d+)/[^/]+$", str((process / "fd/1").readlink()))
    except OSError:
        return None
    return int(wrote[1]) if wrote else None


if __name__ == "__main__":
    sys.exit(main())
