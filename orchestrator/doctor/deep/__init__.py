"""`nx8 doctor --deep`: what idle nodes can do, measured in the vendor's container.

program.py   the measuring program as text; cases/trainer/ceiling.py is what it does
running.py   runs it on this machine or in a container of each node, and leaves nothing
figures.py   its answers as values, and who stands out from its peers. Pure
showing.py   the tables and the JSON document
"""

from __future__ import annotations

import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator import ceilings, doctor
from orchestrator.doctor.deep.figures import (
    DTYPES,
    NODE_FIGURES,
    NOT_MEASURED,
    REDUCE,
    Figure,
    Measured,
    Outlier,
    Reduced,
    all_outliers,
    reduced,
    rounds,
)
from orchestrator.doctor.deep.running import Job, Site, Wanted, opened
from orchestrator.doctor.findings import Findings
from orchestrator.errors import Exit
from orchestrator.selection import site_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.doctor.deep.running import Place
    from orchestrator.workspace import Workspace

LEAST_S = 2.0
#: Rows of the first look that keep a node from being measured; data and room do not.
NEEDED = ("ssh", "python3", "torch", "docker", "runtime", "devices", "idle", "network")
#: One measurement: calibration, warm-up, batches, and a wide margin; and the start of a container.
FIGURE_LIMIT_S = 20.0
START_LIMIT_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """What was measured. `skipped`: node → why it was not. `reduced` are all-reduces within a node, `pairs`
    those of two nodes each, `whole` that of all; of one node there are none.
    """

    findings: Findings
    at_utc: str
    seconds: float
    least_s: float
    devices: tuple[Measured, ...]
    within: tuple[Reduced, ...] = ()
    pairs: tuple[Reduced, ...] = ()
    whole: Reduced | None = None
    outliers: tuple[Outlier, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stored: tuple[str, ...] = ()

    @property
    def between(self) -> tuple[Reduced, ...]:
        """All-reduces between nodes, each once: of two nodes the one pair is the whole."""
        whole = () if self.whole is None or self.whole in self.pairs else (self.whole,)
        return (*self.pairs, *whole)

    @property
    def exit_code(self) -> Exit:
        """3 when a planned node, or a sum between nodes, was not measured; a device that stands out is a
        warning.
        """
        lacking = any(one.figure.value is None for one in self.between)
        return Exit.PREFLIGHT if self.skipped or self.failed or lacking else Exit.OK


def measured(
    workspace: Workspace,
    *,
    cluster: str | None,
    vendor: str | None,
    cases: tuple[str, ...] = (),
    least_s: float = LEAST_S,
    limit_s: float = doctor.LIMIT_S,
    say: Callable[[str], None] = lambda _: None,
) -> Depth:
    """Looks first, then measures every node that can be: devices all at once, pairs of nodes round by round,
    all nodes together. What was measured of matrix products is kept for the MFU of runs that follow.

    Raises ConfigError; BusyError where somebody takes a node meanwhile.
    """
    findings = doctor.look(workspace, cluster=cluster, vendor=vendor, cases=cases, limit_s=limit_s)
    began, at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    skipped = {
        node.name: f"{NOT_MEASURED} {check.code} {check.text()}"
        for node in findings.nodes
        for check in reversed(node.checks)
        if check.severity == "bad" and check.name in NEEDED
    }
    names = tuple(node.name for node in findings.nodes if node.name not in skipped)
    site = Site.of(workspace, site_of(workspace, vendor=vendor, cluster=cluster), cases=cases)
    failed: dict[str, str] = {}
    with ExitStack() as exits:
        place = exits.enter_context(opened(workspace, site, names, skipped))
        names = tuple(name for name in names if name not in skipped)
        say(f"measuring {', '.join(names) or 'nothing'}: every device, {least_s:g} s a figure at least")
        found = place.run([_job((name,), NODE_FIGURES, least_s) for name in names], tell=failed)
        devices = [one for ones in found for one in ones]
        able = tuple(name for name in names if name not in failed)
        pairs, whole = between(place, able, site.devices, least_s=least_s, say=say)
        images = place.images
    by_node = {name: [one for one in devices if one.node == name] for name in able}
    within = tuple(reduced((name,), ones, devices_per_node=site.devices) for name, ones in by_node.items())
    stored = _kept(workspace, by_node, images, findings, at)
    return Depth(
        findings=findings,
        at_utc=at,
        seconds=round(time.monotonic() - began, 1),
        least_s=least_s,
        devices=tuple(devices),
        within=within,
        pairs=tuple(pairs),
        whole=whole,
        outliers=all_outliers(devices, within, pairs),
        skipped=skipped,
        failed=failed,
        stored=stored,
    )


def between(
    place: Place, nodes: tuple[str, ...], num_devices: int, *, least_s: float, say: Callable[[str], None]
) -> tuple[list[Reduced], Reduced | None]:
    """All-reduce of every pair of nodes, round by round, and of all of them; without a value, with its
    reason, where a node of it failed.
    """

    def at_once(groups: Sequence[tuple[str, ...]]) -> list[Reduced]:
        unheard: dict[str, str] = {}
        heard = place.run([_job(group, (REDUCE,), least_s) for group in groups], tell=unheard)
        return [
            reduced(group, ones, devices_per_node=num_devices, unheard=unheard)
            for group, ones in zip(groups, heard, strict=True)
        ]

    pairs: list[Reduced] = []
    for one_round in rounds(nodes):
        say(f"all-reduce between {', '.join('+'.join(pair) for pair in one_round)}")
        pairs += at_once(one_round)
    if len(nodes) < 3:
        return pairs, pairs[0] if pairs else None
    say(f"all-reduce over {len(nodes)} nodes")
    (whole,) = at_once([nodes])
    return pairs, whole


def _job(nodes: tuple[str, ...], figures: tuple[str, ...], least_s: float) -> Job:
    return Job(
        nodes=nodes,
        wanted=Wanted(
            nonce=secrets.token_hex(8),
            figures=figures,
            least_s=least_s,
            limit_s=START_LIMIT_S + len(figures) * (FIGURE_LIMIT_S + 4 * least_s),
        ),
        port=20000 + secrets.randbelow(10000),
    )


def _kept(
    workspace: Workspace,
    by_node: dict[str, list[Measured]],
    images: dict[str, str],
    findings: Findings,
    at: str,
) -> tuple[str, ...]:
    """Writes the ceilings; returns the files, as a person would name them."""
    paths = []
    for name, ones in by_node.items():
        tflops = {dtype: tuple(_best(one.figures.get(f"gemm:{dtype}")) for one in ones) for dtype in DTYPES}
        kept = {dtype: values for dtype, values in tflops.items() if set(values) != {None}}
        if not kept:
            continue
        path = ceilings.store(
            workspace.home,
            ceilings.NodeCeiling(
                schema=1,
                cluster=findings.cluster,
                node=name,
                at_utc=at,
                device=findings.device,
                torch=next((one.torch for one in ones if one.torch), None),
                image=images.get(name),
                boot_id=None,
                tflops=kept,
            ),
        )
        paths.append(workspace.shown(path))
    return tuple(paths)


def _best(figure: Figure | None) -> float | None:
    return figure.best if figure is not None else None
