"""A run's files → what history keeps of it. Pure: it can always be made again from them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SCHEMA = "nx8.history/1"
MEASURED = "MEASURED"
#: full: the published model on the vendor's devices · proxy: a stand-in model on a CPU · rehearsal: stand-in
#: accelerators. Only full ones are judged as measurements; the others have trends of their own kind.
Scope = Literal["full", "proxy", "rehearsal"]
#: Of a node or host: what differs from night to night without a person having changed anything.
VOLATILE = frozenset({"clock_skew_s", "free_bytes", "unknown", "name", "hostname", "boot_id", "address"})
MEMORY = frozenset({"mem_total_bytes", "memory_bytes"})
#: Variables whose value is a run's own.
OWN_VARIABLES = frozenset({"MASTER_ADDR", "MASTER_PORT"})
MAX_TEXT = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What makes two cells the same measurement: points of one series may be compared. `steps`: measured
    steps, for the loss of a shorter run is another one.
    """

    scope: Scope
    case: str
    stage: str | None
    vendor: str
    device: str
    scale: str
    precision: str
    fix_hp: str
    cluster: str
    steps: int

    @property
    def title(self) -> str:
        """In tables and messages."""
        parts = [self.case, self.device, self.scale, self.stage or "", self.precision]
        if self.fix_hp != "/":
            parts.append(self.fix_hp)
        marks = "" if self.scope == "full" else f" ({self.scope})"
        return " ".join(part for part in parts if part) + f" @{self.cluster}{marks}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A person's word that figures are normal from here on. `cell_id` null: every cell of the run."""

    who: str
    at_utc: str
    reason: str
    cell_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """`values`: metric → value, of a MEASURED cell; `work`: how it was computed, flat, for comparing."""

    cell_id: str
    series: Series
    verdict: str
    degraded: bool
    reason: str | None
    values: dict[str, float]
    work: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run. `metrics`: name → (unit, direction); `environment`: what it ran on, flat, for comparing."""

    schema: str
    run_id: str
    created_utc: str
    cluster: str
    vendor: str
    exit_code: int
    duration_s: float | None
    nx8_version: str
    metrics: dict[str, tuple[str, str]]
    environment: dict[str, str]
    cells: tuple[CellRecord, ...]
    accepted: tuple[Accepted, ...] = ()

    @property
    def at_s(self) -> float:
        """When it was planned, Unix time."""
        return datetime.fromisoformat(self.created_utc).timestamp()


def record_of(
    result: Mapping[str, Any], plan: Mapping[str, Any] | None = None, accepted: Iterable[Accepted] = ()
) -> RunRecord:
    """What history keeps of result.json, plan.json and the acceptances of one run.

    Raises KeyError, TypeError, ValueError, AttributeError or OverflowError for a result of another shape.
    """
    run = result["run"]
    launches = {
        str(cell["cell_id"]): cell["launches"] for cell in (plan or {}).get("cells", ()) if "launches" in cell
    }
    phases = result.get("phases") or ()
    record = RunRecord(
        schema=SCHEMA,
        run_id=_text(run["run_id"]),
        created_utc=_text(run["created_utc"]),
        cluster=_text(run["cluster"]),
        vendor=_text(run["vendor"]),
        exit_code=int(result["exit_code"]),
        duration_s=float(sum(phase["seconds"] for phase in phases)) if phases else None,
        nx8_version=_text(result["nx8_version"]),
        metrics={
            _text(name): (_text(metric["unit"]), _text(metric["direction"]))
            for cell in result["cells"]
            for name, metric in cell["metrics"].items()
        },
        environment={**environment_of(result["environment"]), **_own(result)},
        cells=tuple(_cell(cell, run, launches.get(str(cell["cell_id"]), ())) for cell in result["cells"]),
        accepted=tuple(accepted),
    )
    assert record.at_s is not None  # raises ValueError where the date is none
    return record


def _own(result: Mapping[str, Any]) -> dict[str, str]:
    return {
        "nx8/version": _text(result["nx8_version"]),
        "nx8/parser": _text(result["parser_version"]),
    }


def _cell(cell: Mapping[str, Any], run: Mapping[str, Any], launches: Iterable[Any]) -> CellRecord:
    measured = cell["verdict"] == MEASURED
    return CellRecord(
        cell_id=_text(cell["cell_id"]),
        series=series_of(cell, _text(run["cluster"])),
        verdict=_text(cell["verdict"]),
        degraded=bool(cell.get("degraded")),
        reason=_text(cell["reasons"][0]) if cell["reasons"] else None,
        values={
            _text(name): float(metric["value"])
            for name, metric in cell["metrics"].items()
            if measured and metric["value"] is not None
        },
        work={**_work(cell), **_variables(launches)},
    )


def series_of(cell: Mapping[str, Any], cluster: str) -> Series:
    """The series that a cell of result.json belongs to."""
    scope: Scope = "full"
    if cell.get("rehearsal") is not None:
        scope = "rehearsal"
    elif cell["proxy"] is not None:
        scope = "proxy"
    return Series(
        scope=scope,
        case=_text(cell["case"]),
        stage=None if cell["stage"] is None else _text(cell["stage"]),
        vendor=_text(cell["vendor"]),
        device=_text(cell["device"]),
        scale=f"{int(cell['num_nodes'])}x{int(cell['devices_per_node'])}",
        precision=_text(cell["precision"]["label"]),
        fix_hp=_text(cell["fix_hp"] or "/"),
        cluster=cluster,
        steps=int(cell["steps"]["measured_steps"]),
    )


def environment_of(environment: Mapping[str, Any]) -> dict[str, str]:
    """What a run ran on, flat: `node/<name>/<fact>`, `image/<engine>/<fact>`, `host/<fact>`, `git/<fact>`.

    `environment` is that of result.json, or host.json itself, which has the same keys. What changes by itself
    (free bytes, clocks, boot ids) is left out, and so is what nobody knows.
    """
    flat: dict[str, str] = {}
    for part in ("host", "git"):
        flat |= _flat(part, environment.get(part))
    for name, node in (environment.get("nodes") or {}).items():
        flat[f"node/{_text(name)}"] = "present"
        flat |= _flat(f"node/{_text(name)}", node)
    for tag, image in (environment.get("images") or {}).items():
        # The tag names the content; what is compared is the image of the same vendor and engine.
        name = _text(tag).partition(":")[0]
        flat |= _flat(f"image/{name}", image if isinstance(image, dict) else {"id": image})
    return flat


def _flat(head: str, value: Any) -> dict[str, str]:
    return dict(_leaves(head, value))


def _leaves(head: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in VOLATILE:
                yield from _leaves(f"{head}/{_text(key)}", inner)
    elif isinstance(value, list):
        if value:
            yield head, _text(json.dumps(value, sort_keys=True, ensure_ascii=False))
    elif head.rpartition("/")[2] in MEMORY and isinstance(value, int):
        yield head, f"{value / 1024**3:.0f} GiB"  # what the kernel keeps of it differs from boot to boot
    elif value is not None:
        yield head, _text(value)


def _work(cell: Mapping[str, Any]) -> dict[str, str]:
    work: dict[str, str] = {}
    for key in ("precision", "parallel", "batch", "steps", "model", "data"):
        work |= _flat(f"config/{key}", cell.get(key))
    for key in ("engine", "backend", "device_type", "zero_stage", "recompute", "attention", "seed"):
        work |= _flat(f"config/{key}", cell.get(key))
    return work | _flat("config/changed", cell.get("changed") or None)


def _variables(launches: Iterable[Any]) -> dict[str, str]:
    """The environment that ranks were given, of every launcher; what differs between them by its launcher."""
    found: dict[str, set[str]] = {}
    for launch in launches:
        given = {str(key): str(value) for key, value in launch["environment"].items()}
        for word in launch["argv"]:
            name, equals, value = str(word).removeprefix("--env=").partition("=")
            if str(word).startswith("--env=") and equals:
                given[name] = value
        for name, value in given.items():
            if name not in OWN_VARIABLES:
                found.setdefault(name, set()).add(value)
    return {f"variable/{_text(name)}": _text(" | ".join(sorted(values))) for name, values in found.items()}


def _text(value: Any) -> str:
    """As it stands, cut where nobody meant it to be that long, and without lone surrogates."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:MAX_TEXT].encode("utf-8", "replace").decode("utf-8")


def to_line(record: RunRecord) -> bytes:
    """One line of JSON, as results/archive keeps runs whose folders are gone."""
    return json.dumps(asdict(record), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def from_line(line: bytes) -> RunRecord:
    """Raises ValueError for a line that `to_line` did not make."""
    import msgspec

    try:
        record = msgspec.json.decode(line, type=RunRecord)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    if record.schema != SCHEMA:
        raise ValueError(f"schema {record.schema[:40]!a} is not {SCHEMA}")
    return record
