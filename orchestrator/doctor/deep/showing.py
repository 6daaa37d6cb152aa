"""What was measured, as text for a terminal and as one JSON document. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orchestrator.doctor.deep.figures import BETWEEN, DTYPES, FAILED, REDUCE, STANDS_OUT
from orchestrator.doctor.document import document as looked
from orchestrator.doctor.table import cells, pad
from orchestrator.errors import worst
from orchestrator.messages import translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.doctor.deep import Depth
    from orchestrator.doctor.deep.figures import Figure, Measured, Outlier, Reduced
    from orchestrator.messages import Language

#: Column → its unit; columns of which no device has a figure are left out, and their reasons stand below.
COLUMNS = {
    **{f"gemm:{dtype}": "TFLOPS" for dtype in DTYPES},
    "memory": "GB/s",
    "host_to_device": "GB/s",
    "device_to_host": "GB/s",
}
WORDS = {
    "zh": {
        "memory": "显存带宽",
        "host_to_device": "主机→卡",
        "device_to_host": "卡→主机",
        REDUCE: "节点内 all-reduce",
        BETWEEN: "节点间 all-reduce",
        "device": "加速卡",
        "nodes": "节点",
    },
    "en": {
        "memory": "memory",
        "host_to_device": "host→device",
        "device_to_host": "device→host",
        REDUCE: "all-reduce in the node",
        BETWEEN: "all-reduce between nodes",
        "device": "device",
        "nodes": "nodes",
    },
}


def text(depth: Depth, language: Language = "en") -> str:
    """Without a newline at its end."""
    zh = language == "zh"
    lines = [_head(depth, zh=zh), ""]
    if depth.devices:
        lines += [*_devices(depth.devices, language), ""]
        lines += [*_reduces(depth), ""]
        lines += [*_reasons(depth, language)]
    lines += [f"! {_outlier(one, language)}" for one in depth.outliers]
    lines += [f"✗ {node} {why}" for node, why in (depth.skipped | depth.failed).items()]
    lines += _closing(depth, zh=zh)
    return "\n".join(lines)


def _head(depth: Depth, *, zh: bool) -> str:
    found = depth.findings
    rehearsal = ("（演练：在 CPU 上计算）" if zh else " (rehearsal: on the CPU)") if found.rehearsal else ""
    what = f"{found.cluster}{rehearsal}  {found.vendor} {found.device}"
    number_of, took, least = len(depth.devices), f"{depth.seconds:g} s", f"{depth.least_s:g} s"
    if zh:
        return f"{what}  {number_of} 张卡实测，用时 {took}，每项至少 {least}；中位数（括号内为最快一批）"
    return (
        f"{what}  {number_of} devices measured in {took}, {least} a figure at least; median (fastest batch)"
    )


def label(name: str, language: Language) -> str:
    if name.startswith("gemm:"):
        return f"GEMM {name.partition(':')[2]}"
    return WORDS[language].get(name, name)


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}" if value >= 1e-3 else f"{value:.2e}"


def _figure(figure: Figure | None) -> str:
    if figure is None or figure.value is None:
        return "–"
    return f"{number(figure.value)} ({number(figure.best)})"


def _devices(devices: Sequence[Measured], language: Language) -> list[str]:
    names = [
        name for name in COLUMNS if any((one.figures.get(name) or _NONE).value is not None for one in devices)
    ]
    head = [WORDS[language]["device"], *(f"{label(name, language)} {COLUMNS[name]}" for name in names)]
    rows = [
        [f"{one.node}:{one.index}", *(_figure(one.figures.get(name)) for name in names)] for one in devices
    ]
    return table([head, *rows])


class _Nothing:
    value = None


_NONE = _Nothing()


def _reduces(depth: Depth) -> list[str]:
    head = ["all-reduce", "algbw GB/s", "busbw GB/s", "MiB", "rank"]
    rows = [_reduce(one) for one in (*depth.within, *depth.between)]
    return table([head, *rows]) if rows else []


def _reduce(one: Reduced) -> list[str]:
    figure = one.figure
    size, ranks = figure.details.get("bytes"), figure.details.get("ranks")
    return [
        _group(one.nodes),
        number(figure.algbw),
        number(figure.busbw),
        f"{size / 2**20:g}" if isinstance(size, int) else "–",
        str(ranks) if ranks else "–",
    ]


def _group(nodes: tuple[str, ...]) -> str:
    return "+".join(nodes) if len(nodes) < 3 else f"{nodes[0]} … {nodes[-1]} ({len(nodes)})"


def _reasons(depth: Depth, language: Language) -> list[str]:
    """Why figures are missing, each reason once with the devices, or the nodes, it is true of."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in depth.devices:
        for name, figure in one.figures.items():
            if figure.value is None and figure.reason:
                found.setdefault((name, figure.reason), []).append(f"{one.node}:{one.index}")
    lines = []
    for (name, reason), ones in found.items():
        where = "" if len(ones) == len(depth.devices) else f" {', '.join(ones)}"
        lines.append(f"– {label(name, language)}{where}: {translated(reason, language)}")
    lines += [
        f"✗ {_group(one.nodes)} {FAILED} {label(BETWEEN, language)}:"
        f" {translated(one.figure.reason or '?', language)}"
        for one in depth.between
        if one.figure.value is None
    ]
    return [*lines, ""] if lines else []


def _outlier(one: Outlier, language: Language) -> str:
    where = f"{one.nodes[0]}:{one.index}" if one.index is not None else "+".join(one.nodes)
    slower = f"{100 * (1 - one.factor):.0f} %"
    name = label(one.figure, language)
    if language == "zh":
        return (
            f"{where} {STANDS_OUT} {name} 比同类慢 {slower}：{number(one.value)}，同类 {number(one.median)}"
        )
    beside = f"{number(one.value)} beside {number(one.median)}"
    return f"{where} {STANDS_OUT} {name}: {slower} slower than its peers, {beside}"


def _closing(depth: Depth, *, zh: bool) -> list[str]:
    lines = []
    if depth.stored:
        kept = ", ".join(depth.stored)
        lines.append(
            f"上限已存：{kept}；当天的运行以此计算 mfu_ceiling"
            if zh
            else f"kept: {kept}; runs of this day take mfu_ceiling from it"
        )
    number_out, code = len(depth.outliers), int(depth.exit_code)
    unmeasured = len(depth.skipped | depth.failed)
    sums = sum(one.figure.value is None for one in depth.between)
    if zh:
        more = f"，{sums} 项节点间 all-reduce 未测得" if sums else ""
        lines.append(f"{number_out} 处明显偏慢，{unmeasured} 个节点未测{more}（退出码 {code}）")
    else:
        more = f", {sums} all-reduces between nodes not measured" if sums else ""
        lines.append(f"{number_out} stand out, {unmeasured} nodes not measured{more} (exit {code})")
    return lines


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side, as wide as they have to be."""
    widths = [max(cells(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(pad(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def document(depth: Depth) -> dict[str, Any]:
    """`nx8 doctor --deep --json`: the first look's document with `deep` beside."""
    return {
        **looked(depth.findings),
        "exit_code": worst((int(depth.findings.exit_code), int(depth.exit_code))),
        "deep": {
            "at_utc": depth.at_utc,
            "seconds": depth.seconds,
            "least_s": depth.least_s,
            "devices": [asdict(one) for one in depth.devices],
            "within": [_as_document(one) for one in depth.within],
            "pairs": [_as_document(one) for one in depth.pairs],
            "whole": _as_document(depth.whole) if depth.whole is not None else None,
            "outliers": [
                {**asdict(one), "nodes": list(one.nodes), "factor": one.factor} for one in depth.outliers
            ],
            "skipped": depth.skipped,
            "failed": depth.failed,
            "stored": list(depth.stored),
        },
    }


def _as_document(one: Reduced) -> dict[str, Any]:
    return {"nodes": list(one.nodes), "figure": asdict(one.figure)}
