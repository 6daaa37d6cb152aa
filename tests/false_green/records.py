"""Faults of the records: what a careless, and what a careful forger would do to a stored run's raw files."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.derive import derive, render
from orchestrator.load import read_stored
from orchestrator.plan import Plan
from orchestrator.results import RunFolder
from tests.cellmaker import sealed
from tests.false_green import Due, Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[["Copy"], object]

Records = list[dict[str, Any]]


class Copy:
    """A copy of a stored run whose raw files may be changed. `other` is another run of the same plan."""

    def __init__(self, run: Path, folder: Path, other: Path) -> None:
        shutil.copytree(run, folder, symlinks=True)
        for name in ("result.json", "report.md"):
            (folder / name).unlink(missing_ok=True)
        self.folder = folder
        self.other = other

    @property
    def node(self) -> Path:
        return next(self.folder.glob("cells/*/node0"))

    def events(self, rank: int) -> Path:
        return self.node / f"rank{rank}" / "events.jsonl"

    def lines(self, rank: int) -> list[bytes]:
        return self.events(rank).read_bytes().splitlines(keepends=True)

    def write(self, rank: int, lines: list[bytes]) -> None:
        self.events(rank).write_bytes(b"".join(lines))

    def records(self, rank: int) -> Records:
        return [json.loads(line) for line in self.lines(rank)]

    @property
    def status(self) -> dict[str, Any]:
        return json.loads((self.node / "status.json").read_text("utf-8"))

    def write_status(self, status: dict[str, Any]) -> None:
        (self.node / "status.json").write_text(json.dumps(status), "utf-8")

    def host(self, change: Callable[[dict[str, Any]], None]) -> None:
        path = self.folder / "host.json"
        document = json.loads(path.read_text("utf-8"))
        (cell,) = document["cells"].values()
        change(cell)
        path.write_text(json.dumps(document), "utf-8")

    def seal(self, rank: int, records: Records, *, status: bool = True) -> None:
        """As an honest trainer and launcher would have written these: CRC, seq, the end record's count and
        SHA-256, and the same in status.json.
        """
        lines: list[bytes] = []
        for seq, record in enumerate(records):
            whole = {key: value for key, value in record.items() if key != "crc32"} | {"seq": seq}
            if whole["event"] == "end":
                whole["count"], whole["sha256"] = seq, hashlib.sha256(b"".join(lines)).hexdigest()
            lines.append(sealed(whole))
        self.write(rank, lines)
        last = json.loads(lines[-1]) if lines else {}
        if status:
            told = self.status
            told["ranks"][rank] |= {"end_count": last.get("count"), "end_sha256": last.get("sha256")}
            self.write_status(told)

    def judged(self) -> dict[str, Any]:
        folder = RunFolder(path=self.folder)
        document = json.loads(render(derive(folder, read_stored(folder.plan, Plan))))
        (cell,) = document["cells"]
        return cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    group: str
    name: str
    due: Due
    make: Make


def change(rank: int, event: str, fields: dict[str, Any], *, nth: int = 0) -> Callable[[Copy], None]:
    """One field of the nth such record, sealed again in every place: only its content can give it away."""

    def make(copy: Copy) -> None:
        records = copy.records(rank)
        chosen = [record for record in records if record["event"] == event][nth]
        for key, value in fields.items():
            chosen[key] = value(chosen) if callable(value) else value
        copy.seal(rank, records)

    return make


def each_step(rank: int | None, edit: Callable[[dict[str, Any]], None]) -> Callable[[Copy], None]:
    """The same to every step of one rank, or of all, sealed again."""

    def make(copy: Copy) -> None:
        for one in (0, 1) if rank is None else (rank,):
            records = copy.records(one)
            for record in records:
                if record["event"] == "step":
                    edit(record)
            copy.seal(one, records)

    return make


def lines_of(rank: int, edit: Callable[[list[bytes]], list[bytes]]) -> Callable[[Copy], None]:
    """Whole lines moved about, nothing sealed again."""
    return lambda copy: copy.write(rank, edit(copy.lines(rank)))


def status_with(edit: Callable[[dict[str, Any]], object]) -> Callable[[Copy], None]:
    def make(copy: Copy) -> None:
        told = copy.status
        edit(told)
        copy.write_status(told)

    return make


def digit(field: bytes, *, line: int = 4) -> Callable[[list[bytes]], list[bytes]]:
    """One digit of one field, the CRC left as it was."""

    def edit(lines: list[bytes]) -> list[bytes]:
        text = lines[line]
        at = text.index(b'"' + field + b'":') + len(field) + 3
        while not text[at : at + 1].isdigit():
            at += 1
        lines[line] = text[:at] + (b"9" if text[at : at + 1] != b"9" else b"8") + text[at + 1 :]
        return lines

    return edit


def recrc(lines: list[bytes]) -> list[bytes]:
    """One line edited and given a right CRC, the end record left as it was."""
    record = json.loads(lines[4])
    del record["crc32"]
    lines[4] = sealed(record | {"loss": 0.1})
    return lines


def faster(centre: str, factor: float = 10.0) -> Callable[[Copy], None]:
    """Every clock reading of every rank drawn together around its first or last step, or the middle: all of
    it consistent, a trainer whose clock runs slow.
    """

    def make(copy: Copy) -> None:
        for rank in (0, 1):
            records = copy.records(rank)
            steps = [record for record in records if record["event"] == "step"]
            first, last = steps[0]["start_s"], records[-1]["t_s"]
            around = {"begin": first, "end": last, "middle": (first + last) / 2}[centre]
            for record in records:
                for key in ("t_s", "start_s", "end_s"):
                    if key in record:
                        record[key] = around + (record[key] - around) / factor
            copy.seal(rank, records)

    return make


def shorter(record: dict[str, Any]) -> None:
    record["end_s"] = record["start_s"] + (record["end_s"] - record["start_s"]) / 10


def replayed(copy: Copy, *, rank: int, status: bool) -> None:
    source = next(copy.other.glob("cells/*/node0"))
    shutil.copy(source / f"rank{rank}" / "events.jsonl", copy.events(rank))
    if status:
        shutil.copy(source / "status.json", copy.node / "status.json")


def whole_folder(copy: Copy) -> None:
    """A stale folder: everything that another run left, under this run's plan."""
    source = next(copy.other.glob("cells/*/node0"))
    shutil.rmtree(copy.node)
    shutil.copytree(source, next(copy.folder.glob("cells/*")) / "node0")


def cut_steps(count: int, *, end: bool) -> Callable[[Copy], None]:
    """The last `count` steps never happened, and every place says so."""

    def make(copy: Copy) -> None:
        for rank in (0, 1):
            records = copy.records(rank)
            last = max(record["step"] for record in records if record["event"] == "step")
            records = [one for one in records if one["event"] != "step" or one["step"] <= last - count]
            for record in records:
                if record["event"] == "end" and not end:
                    record["steps"] = last - count
            copy.seal(rank, records)

    return make


def without(event: str, rank: int, *, nth: int = 0) -> Callable[[Copy], None]:
    def make(copy: Copy) -> None:
        records = copy.records(rank)
        records.remove([record for record in records if record["event"] == event][nth])
        copy.seal(rank, records)

    return make


def twice(copy: Copy) -> None:
    records = copy.records(0)
    at = next(n for n, record in enumerate(records) if record.get("step") == 4)
    copy.seal(0, [*records[: at + 1], records[at], *records[at + 1 :]])


def swapped(copy: Copy) -> None:
    records = copy.records(0)
    at = next(n for n, record in enumerate(records) if record.get("step") == 4)
    records[at], records[at + 1] = records[at + 1], records[at]
    copy.seal(0, records)


def link(copy: Copy) -> None:
    path = copy.events(1)
    kept = path.with_name("elsewhere")
    path.rename(kept)
    path.symlink_to(kept)


def faults() -> Iterator[Fault]:
    """Every fault of the records, in the order of the table."""
    intact, ended, reported = (
        Due(proof=name) for name in ("records_intact", "end_records", "all_ranks_reported")
    )
    reached, codes, nonce = (Due(proof=name) for name in ("steps_reached", "exit_codes", "nonce"))
    for rank in (0, 1):
        for field in (b"tokens", b"loss", b"end_s", b"step"):
            name = f"rank {rank}: a digit of {field.decode()} edited"
            yield Fault(group="edited", name=name, due=intact, make=lines_of(rank, digit(field)))
        name = f"rank {rank}: loss edited with a right CRC"
        yield Fault(group="edited", name=name, due=ended, make=lines_of(rank, recrc))
    moves: dict[str, tuple[str, Due, Callable[[list[bytes]], list[bytes]]]] = {
        "a line left out": ("cut", intact, lambda x: [*x[:4], *x[5:]]),
        "the last line left out": ("cut", ended, lambda x: x[:-1]),
        "cut in the middle of a line": ("cut", intact, lambda x: [*x[:6], x[6][: len(x[6]) // 2]]),
        "cut behind a line": ("cut", ended, lambda x: x[:6]),
        "cut to nothing": ("cut", intact, lambda _: []),
        "the last newline left out": ("cut", ended, lambda x: [*x[:-1], x[-1][:-1]]),
        "a line twice": ("duplicated", intact, lambda x: [*x[:5], x[4], *x[5:]]),
        "the end record twice": ("duplicated", intact, lambda x: [*x, x[-1]]),
        "the whole file twice": ("duplicated", intact, lambda x: [*x, *x]),
        "two lines swapped": ("reordered", intact, lambda x: [*x[:4], x[5], x[4], *x[6:]]),
        "all steps reversed": ("reordered", intact, lambda x: [*x[:2], *x[-3:1:-1], *x[-2:]]),
        "a foreign line behind the end": ("added", intact, lambda x: [*x, b'{"event":"step"}\n']),
        "bytes that are no text": ("added", intact, lambda x: [*x[:3], b"\xff\xfe\x00\n", *x[3:]]),
    }
    for words, (group, due, edit) in moves.items():
        yield Fault(group=group, name=words, due=due, make=lines_of(1, edit))
    yield Fault(group="duplicated", name="a step twice, sealed again", due=reached, make=twice)
    yield Fault(group="reordered", name="two steps swapped, sealed again", due=reached, make=swapped)
    yield from _replayed(nonce)
    yield from _missing(reported, reached, ended)
    yield from _cut_short(reached, ended)
    yield from _status(codes)
    yield from _otherwise()
    yield from _numbers()
    yield from _speed()
    yield from _host()


def _replayed(nonce: Due) -> Iterator[Fault]:
    for rank in (0, 1):
        yield Fault(
            group="replayed",
            name=f"rank {rank}: another run's records",
            due=nonce,
            make=lambda copy, rank=rank: replayed(copy, rank=rank, status=False),
        )
    yield Fault(
        group="replayed",
        name="another run's records and status",
        due=nonce,
        make=lambda copy: [replayed(copy, rank=rank, status=True) for rank in (0, 1)],
    )
    yield Fault(group="stale folder", name="all that another run left", due=nonce, make=whole_folder)
    yield Fault(
        group="replayed",
        name="rank 0's records as rank 1's",
        due=Due(proof="records_intact"),
        make=lambda copy: copy.write(1, copy.lines(0)),
    )
    yield Fault(
        group="replayed",
        name="another run's status",
        due=nonce,
        make=status_with(lambda told: told.update(nonce="0" * 32)),
    )


def _missing(reported: Due, reached: Due, ended: Due) -> Iterator[Fault]:
    for rank in (0, 1):
        yield Fault(
            group="rank missing",
            name=f"no file of rank {rank}",
            due=reported,
            make=lambda copy, rank=rank: copy.events(rank).unlink(),
        )
    yield Fault(
        group="rank missing",
        name="no folder of rank 1",
        due=reported,
        make=lambda copy: shutil.rmtree(copy.events(1).parent),
    )
    yield Fault(group="rank missing", name="a link for a file", due=reported, make=link)
    yield Fault(group="rank missing", name="no hello", due=reported, make=without("hello", 1))
    yield Fault(group="rank missing", name="no ready", due=Due(proof="model"), make=without("ready", 1))
    yield Fault(group="rank missing", name="no end record", due=ended, make=without("end", 1))
    yield Fault(group="rank missing", name="a step missing", due=reached, make=without("step", 1, nth=3))


def _cut_short(reached: Due, ended: Due) -> Iterator[Fault]:
    for count in (1, 3, 6):
        name = f"{count} steps fewer, sealed again"
        yield Fault(group="cut short", name=name, due=reached, make=cut_steps(count, end=False))
    yield Fault(
        group="cut short", name="fewer steps, the end says all", due=reached, make=cut_steps(1, end=True)
    )
    yield Fault(
        group="cut short",
        name="the end record says fewer",
        due=ended,
        make=change(1, "end", {"steps": 1}),
    )


def _status(codes: Due) -> Iterator[Fault]:
    edits: dict[str, tuple[Due, Callable[[dict[str, Any]], object]]] = {
        "rank 1 exited with 1": (codes, lambda s: s["ranks"][1].update(exit_code=1)),
        "rank 1 ended by a signal": (codes, lambda s: s["ranks"][1].update(exit_code=None, signal="SIGSEGV")),
        "rank 1 stopped by its launcher": (codes, lambda s: s["ranks"][1].update(killed=True)),
        "rank 1 not listed": (codes, lambda s: s["ranks"].pop()),
        "rank 1 listed twice": (codes, lambda s: s["ranks"].append(s["ranks"][1])),
        "a rank nobody planned": (codes, lambda s: s["ranks"].append(s["ranks"][1] | {"rank": 2})),
        "another node's": (codes, lambda s: s.update(node_rank=1)),
        "stopped by the host's end": (codes, lambda s: s.update(stopped_by="host_gone")),
        "another end record": (
            Due(proof="end_records"),
            lambda s: s["ranks"][0].update(end_sha256="0" * 64),
        ),
        "another contract": (codes, lambda s: s.update(contract=2)),
        "shorter than its steps": (
            Due(proof="wall_clock"),
            lambda s: s.update(ended_s=s["started_s"] + 0.5, wall_s=0.5),
        ),
        "a life it does not add up to": (Due(proof="wall_clock"), lambda s: s.update(wall_s=1e6)),
    }
    for name, (due, edit) in edits.items():
        yield Fault(group="status", name=name, due=due, make=status_with(edit))
    yield Fault(
        group="status",
        name="no status",
        due=codes,
        make=lambda copy: (copy.node / "status.json").unlink(),
    )
    yield Fault(
        group="status",
        name="half a status",
        due=codes,
        make=lambda copy: (copy.node / "status.json").write_text('{"contract": 1, "nonce": "'),
    )


def _otherwise() -> Iterator[Fault]:
    """Another training than the planned one, truthfully recorded."""
    said = {
        "hello": {
            "world_size": (1, "world_size"),
            "backend": ("mpi", "world_size"),
            "device_type": ("cuda", "world_size"),
            "engine": ("ddp", "world_size"),
            "attention": ("flash_attn_2", "world_size"),
            "seed": (99, "world_size"),
            "job_sha256": ("0" * 64, "job"),
        },
        "ready": {
            "num_parameters": (1_000, "model"),
            "num_embedding_parameters": (1, "model"),
            "data_sha256": ("0" * 64, "data"),
            "data_num_tokens": (5, "data"),
            "zero_stage": (7, "world_size"),
            "compute_dtype": ("fp8", "world_size"),
            "recompute": ("full", "world_size"),
            "micro_batch_size": (77, "batch"),
            "gradient_accumulation_steps": (77, "batch"),
            "sequence_length": (7, "batch"),
            "world_size": (4, "world_size"),
        },
    }
    for event, fields in said.items():
        for field, (value, proof) in fields.items():
            group = "wrong world size" if field == "world_size" else "another training"
            yield Fault(
                group=group,
                name=f"{event} says {field} {str(value)[:12]}",
                due=Due(proof=proof),
                make=change(1, event, {field: value}),
            )
    for field, value in (("samples", 1_000), ("tokens", 10_000_000)):
        yield Fault(
            group="another training",
            name=f"a step of {value} {field}",
            due=Due(proof="batch"),
            make=change(0, "step", {field: value}, nth=3),
        )
    yield Fault(
        group="another training",
        name="another learning rate",
        due=Due(proof="job"),
        make=change(0, "step", {"learning_rate": 0.0}, nth=3),
    )


def _numbers() -> Iterator[Fault]:
    for word in ("nan", "inf", "-inf"):
        yield Fault(
            group="NaN",
            name=f"loss {word}",
            due=Due(proof="losses_finite"),
            make=change(1, "step", {"loss": None, "loss_nonfinite": word}, nth=4),
        )
    yield Fault(
        group="NaN",
        name="loss absent, no reason",
        due=Due(proof="losses_finite"),
        make=change(0, "step", {"loss": None}, nth=4),
    )
    for value in (-1.0, "2.5", 1e301):
        yield Fault(
            group="NaN",
            name=f"loss {value!r}",
            due=Due(proof="records_intact"),
            make=change(0, "step", {"loss": value}, nth=4),
        )


def _speed() -> Iterator[Fault]:
    """A trainer that claims ten times its speed."""
    yield Fault(
        group="ten times the speed",
        name="every step a tenth as long",
        due=Due(proof="window_covered"),
        make=each_step(None, shorter),
    )
    yield Fault(
        group="ten times the speed",
        name="ten times the tokens",
        due=Due(proof="batch"),
        make=each_step(None, lambda record: record.update(tokens=record["tokens"] * 10)),
    )
    for centre in ("begin", "middle", "end"):
        yield Fault(
            group="ten times the speed",
            name=f"a clock that runs slow, set at the {centre}",
            due=Due(proof="wall_clock"),
            make=faster(centre),
        )
    yield Fault(
        group="ten times the speed",
        name="steps of no time",
        due=Due(proof="window_complete"),
        make=each_step(0, lambda record: record.update(end_s=record["start_s"])),
    )
    yield Fault(
        group="ten times the speed",
        name="steps that end before they begin",
        due=Due(proof="window_complete"),
        make=each_step(0, lambda record: record.update(end_s=record["start_s"] - 1)),
    )
    yield Fault(
        group="ten times the speed",
        name="steps at the same time",
        due=Due(proof="window_complete"),
        make=_all_at_once,
    )


def _all_at_once(copy: Copy) -> None:
    records = copy.records(0)
    steps = [record for record in records if record["event"] == "step"]
    for record in steps:
        record["start_s"], record["end_s"] = steps[3]["start_s"], steps[3]["end_s"]
    copy.seal(0, records)


def _host() -> Iterator[Fault]:
    """What the host itself saw, and the verdict that a cell must then have."""
    edits: dict[str, tuple[Due, dict[str, Any]]] = {
        "the launcher exited with 1": (Due(cause="exited with code 1"), {"launcher_exit": 1}),
        "its exit was never seen": (Due(cause="never seen"), {"launcher_exit": None}),
        "it lived shorter than it says": (Due(proof="wall_clock"), {"launcher_wall_s": 1.0}),
        "nobody saw how long it lived": (Due(proof="wall_clock"), {"launcher_wall_s": None}),
        "the run was stopped": (Due(cause="SIGTERM"), {"stopped": "signal:SIGTERM"}),
        "a node was lost": (Due(cause="lost"), {"stopped": "node_lost"}),
        "it hung": (Due(cause="hung"), {"stopped": "stall"}),
        "it was out of time": (Due(cause="time limit"), {"stopped": "time_limit"}),
        "it was never started": (Due(cause="because"), {"started": False, "not_run_reason": "because"}),
    }
    for name, (due, fields) in edits.items():
        yield Fault(
            group="host",
            name=name,
            due=due,
            make=lambda copy, fields=fields: copy.host(lambda cell: cell.update(fields)),
        )


def tried(fault: Fault, run: Path, other: Path, folder: Path) -> Line:
    """Makes the fault in a copy of `run`, judges it anew, and removes the copy."""
    copy = Copy(run, folder, other)
    try:
        fault.make(copy)
        cell = copy.judged()
    finally:
        shutil.rmtree(folder)
    return Line(
        group=fault.group,
        fault=fault.name,
        due=fault.due.text,
        verdict=cell["verdict"],
        missing=fault.due.found_in(cell),
    )
