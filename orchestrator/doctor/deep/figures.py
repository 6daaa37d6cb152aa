"""What was measured, as values, read from what the measuring program printed. Pure."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Codes of docs/errors.md: a node that was not measured, a measurement that failed, a slow one, no image.
NOT_MEASURED, FAILED, STANDS_OUT, NO_IMAGE = "E850", "E851", "E852", "E853"
#: dtypes of matrix products, in the order of the table.
DTYPES = ("fp32", "tf32", "bf16", "fp16")
NODE_FIGURES = (
    *(f"gemm:{dtype}" for dtype in DTYPES),
    "memory",
    "host_to_device",
    "device_to_host",
    "all_reduce",
)
REDUCE = "all_reduce"
#: The same between nodes, as it is called among outliers.
BETWEEN = "all_reduce between nodes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A rate with what stands behind it: `value` is the median over `batches` that filled `seconds`, `best`
    the fastest of them. Without a value there is a `reason`. `algbw` and `busbw` are of all-reduce alone.
    """

    value: float | None
    best: float | None = None
    unit: str = ""
    seconds: float | None = None
    batches: int | None = None
    reason: str | None = None
    algbw: float | None = None
    busbw: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One device of one node."""

    node: str
    index: int
    device: str | None
    torch: str | None
    figures: dict[str, Figure]


def read(
    text: bytes, *, nonce: str, node: str, wanted: Iterable[str], least_s: float, num_devices: int
) -> tuple[Measured, ...]:
    """The devices of a node, by the one line that the program printed. Raises ValueError for another, and for
    one that does not speak of exactly `num_devices`.
    """
    lines = text.decode("utf-8", "replace").strip().splitlines()
    found = json.loads(lines[-1]) if lines else None
    if not isinstance(found, dict) or found.get("nonce") != nonce or not isinstance(found.get("ranks"), list):
        raise ValueError("the measuring program did not answer as it should")
    if len(found["ranks"]) != num_devices:
        raise ValueError(_answered(len(found["ranks"]), num_devices))
    names = tuple(wanted)
    return tuple(_measured(one, node, names, least_s) for one in found["ranks"])


def _answered(number: int, planned: int) -> str:
    if number > planned:
        return f"{number} ranks answered, {planned} were asked"
    return f"only {number} of {planned} ranks answered"


def _measured(said: Any, node: str, names: tuple[str, ...], least_s: float) -> Measured:
    one = said if isinstance(said, dict) else {}
    told = one.get("figures")
    figures: dict[str, Any] = told if isinstance(told, dict) else {}
    failed = str(one.get("error") or "it was not measured")
    index = one.get("local_rank")
    return Measured(
        node=node,
        index=index if isinstance(index, int) else -1,
        device=one.get("device") if isinstance(one.get("device"), str) else None,
        torch=one.get("torch") if isinstance(one.get("torch"), str) else None,
        figures={
            name: _figure(figures.get(name), failed, least_s, calls_for_bus=name == REDUCE) for name in names
        },
    )


def _figure(said: Any, failed: str, least_s: float, *, calls_for_bus: bool) -> Figure:
    """No figure without its proof: a positive rate, batches, and the time they had to fill."""
    if not isinstance(said, dict):
        return Figure(value=None, reason=failed)
    value, best, seconds = (_number(said.get(key)) for key in ("value", "best", "seconds"))
    batches = said.get("batches")
    if value is None or best is None or seconds is None or not isinstance(batches, int):
        return Figure(value=None, reason=str(said.get("reason") or failed)[:400])
    if seconds < 0.8 * least_s or batches < 1 or not 0 < value <= best:
        return Figure(
            value=None, reason=f"too short, or contradicts itself: {seconds:.3g} s of {least_s:g} s"
        )
    algbw, busbw = _number(said.get("algbw")), _number(said.get("busbw"))
    if calls_for_bus and (algbw is None or busbw is None):
        return Figure(value=None, reason="no bus bandwidth came with it")
    kept = {key: said[key] for key in ("side", "bytes", "ranks", "page_locked", "calls") if key in said}
    return Figure(
        value=value,
        best=best,
        unit=str(said.get("unit") or ""),
        seconds=seconds,
        batches=batches,
        algbw=algbw,
        busbw=busbw,
        details=kept,
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """All-reduce over the devices of these nodes: the slowest rank's figure, for all wait for it."""

    nodes: tuple[str, ...]
    figure: Figure


def reduced(
    nodes: tuple[str, ...],
    ones: Iterable[Measured],
    *,
    devices_per_node: int,
    unheard: Mapping[str, str] | None = None,
) -> Reduced:
    """`unheard`: node → what went wrong there. A sum is a figure only where every rank of it answered."""
    figures = [one.figures.get(REDUCE) or Figure(value=None, reason="it was not measured") for one in ones]
    silent = "; ".join(f"{node}: {why}" for node, why in (unheard or {}).items() if node in nodes)
    planned = len(nodes) * devices_per_node
    if silent or len(figures) != planned:
        return Reduced(
            nodes=nodes, figure=Figure(value=None, reason=silent or _answered(len(figures), planned))
        )
    lacking = next((figure for figure in figures if figure.value is None), None)
    if lacking is not None:
        return Reduced(nodes=nodes, figure=lacking)
    return Reduced(nodes=nodes, figure=min(figures, key=lambda figure: figure.value or 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """A device (`nodes` of one name, and its index) or a pair of nodes that is slower than its own peers:
    `value` beside their `median`; of two it stands beside the other's.
    """

    figure: str
    nodes: tuple[str, ...]
    index: int | None
    value: float
    median: float

    @property
    def factor(self) -> float:
        return self.value / self.median


#: An outlier is slower than the median by this many robust standard deviations (1.4826 MAD) and by a share.
DEVIATIONS = 4.0
LEAST_SHARE = 0.05
#: Of two there is no telling which is the odd one; the slower is named when it is this much slower.
LEAST_SHARE_OF_TWO = 0.2


def outliers(figure: str, values: Iterable[tuple[tuple[str, ...], int | None, float]]) -> tuple[Outlier, ...]:
    """Who of these peers stands out, without any reference but the peers themselves."""
    ones = list(values)
    if len(ones) < 2:
        return ()
    rates = [value for _, _, value in ones]
    if len(ones) == 2:
        median, limit = max(rates), (1 - LEAST_SHARE_OF_TWO) * max(rates)
    else:
        median = statistics.median(rates)
        spread = 1.4826 * statistics.median(abs(value - median) for value in rates)
        limit = median - max(DEVIATIONS * spread, LEAST_SHARE * median)
    return tuple(
        Outlier(figure=figure, nodes=nodes, index=index, value=value, median=median)
        for nodes, index, value in ones
        if value < limit
    )


def all_outliers(
    devices: Sequence[Measured], within: Iterable[Reduced], pairs: Iterable[Reduced]
) -> tuple[Outlier, ...]:
    """Of every figure of every device, of the nodes' own all-reduce, and of pairs of nodes."""
    found: list[Outlier] = []
    for name in NODE_FIGURES:
        if name == REDUCE:
            continue
        values = [
            ((one.node,), one.index, figure.value)
            for one in devices
            if (figure := one.figures.get(name)) is not None and figure.value is not None
        ]
        found += outliers(name, values)
    for name, ones in ((REDUCE, within), (BETWEEN, pairs)):
        found += outliers(
            name, [(one.nodes, None, one.figure.value) for one in ones if one.figure.value is not None]
        )
    return tuple(found)


def rounds(nodes: tuple[str, ...]) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Every pair of nodes once, in as few rounds as there can be, each node in one pair of a round."""
    ring: list[str | None] = [*nodes, *([None] if len(nodes) % 2 else [])]
    found = []
    for _ in range(len(ring) - 1):
        half = len(ring) // 2
        pairs = zip(ring[:half], reversed(ring[half:]), strict=True)
        found.append(tuple((one, two) for one, two in pairs if one is not None and two is not None))
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return tuple(one for one in found if one)
