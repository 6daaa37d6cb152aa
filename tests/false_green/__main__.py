"""`make false-green`: every fault of the campaign, then runs that nothing disturbs; prints the table, and
what is wrong with it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from tests.false_green import Line, processes, records
from tests.false_green.undisturbed import slow_steps, undisturbed
from tests.test_run import run

if TYPE_CHECKING:
    from collections.abc import Iterator


def main() -> int:
    parser = argparse.ArgumentParser(prog="make false-green", description=__doc__)
    parser.add_argument("--undisturbed", type=int, default=20, help="how many runs nothing disturbs")
    parser.add_argument("--frozen", type=int, default=20, help="how many runs with a frozen rank")
    parser.add_argument("--only", default="", help="groups whose name has this in it")
    wanted = parser.parse_args()
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="nx8-false-green-") as name:
        for line in campaign(Path(name), wanted):
            lines.append(line)
            print(shown(line), flush=True)
    return summed_up(lines)


def campaign(folder: Path, wanted: argparse.Namespace) -> Iterator[Line]:
    """Each fault in turn, one run at a time: a machine that is busy with another has other step times."""
    chosen = [fault for fault in records.faults() if wanted.only in fault.group]
    if chosen:
        good, other = slow_steps(processes.home_in(folder / "good")), processes.home_in(folder / "other")
        base, quick = run(good), run(other)
        for number, fault in enumerate(chosen):
            yield records.tried(fault, base.folder, quick.folder, folder / str(number) / base.folder.name)
    for number, one in enumerate(processes.faults()):
        if wanted.only in one.group:
            yield processes.tried(one, folder / f"process{number}")
    for number in range(wanted.frozen if wanted.only in "frozen again" else 0):
        yield processes.tried(processes.frozen(number), folder / f"frozen{number}")
    for number in range(wanted.undisturbed if wanted.only in "undisturbed" else 0):
        yield undisturbed(folder / f"undisturbed{number}", number)


def shown(line: Line) -> str:
    mark = "ok " if line.missing is None else "BAD"
    wrong = "" if line.missing is None else f"   {line.missing}"
    return f"{mark} {line.group:<20} {line.fault:<50} {line.verdict:<9} {line.due}{wrong}"


def summed_up(lines: list[Line]) -> int:
    groups: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        groups[line.group].append(line)
    print(f"\n{'group':<20} {'faults':>6} {'MEASURED':>8} {'right reason':>12}")
    for group, members in groups.items():
        green = sum(line.verdict == "MEASURED" for line in members)
        right = sum(line.missing is None for line in members)
        print(f"{group:<20} {len(members):>6} {green:>8} {right:>12}")
    broken = [line for line in lines if line.missing is not None]
    disturbed = [line for line in lines if line.group != "undisturbed"]
    green = sum(line.verdict == "MEASURED" for line in disturbed)
    print(
        f"\n{len(disturbed)} faults, {green} MEASURED; {len(lines) - len(disturbed)} undisturbed runs, "
        f"{sum(line.verdict == 'MEASURED' for line in lines) - green} MEASURED; {len(broken)} lines are wrong"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
