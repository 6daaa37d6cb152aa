"""Proofs about the files: whole, of this run, of every rank, and the processes that wrote them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.parse.visible import ranks_text, short_digest, visible

if TYPE_CHECKING:
    from orchestrator.parse.events import RankLog
    from orchestrator.verdict.evidence import Evidence
    from orchestrator.verdict.proofs import Finding


def all_ranks_reported(evidence: Evidence) -> Finding:
    silent = [rank for rank in evidence.ranks if not evidence.hello(rank)]
    reported = len(evidence.ranks) - len(silent)
    seen = f"{reported} of {len(evidence.ranks)} planned ranks wrote a hello"
    return ([f"{seen}; not {ranks_text(silent)}"] if silent else []), seen


def records_intact(evidence: Evidence) -> Finding:
    faults = [f"no file of rank {rank}" for rank in evidence.ranks if rank not in evidence.logs]
    faults += [
        f"a file of rank {rank}, which is not planned"
        for rank in sorted(evidence.logs)
        if rank not in evidence.ranks
    ]
    for rank, log in evidence.planned_logs():
        if log.num_problems:
            faults.append(f"rank {rank}: {log.num_problems} of {log.num_lines} lines: {log.problems[0]}")
        elif not log.num_records:
            faults.append(f"rank {rank}: an empty file")
    records = sum(log.num_records for _, log in evidence.planned_logs())
    unknown = sum(log.num_unknown_events for _, log in evidence.planned_logs())
    seen = f"{records} records in {len(evidence.ranks)} files, every line read"
    return faults, seen + (f", {unknown} of events unknown to this version" if unknown else "")


def nonce(evidence: Evidence) -> Finding:
    own = evidence.cell.job.nonce
    faults = [
        f"rank {rank}: {_nonces_text(log.nonces)} instead of {own}"
        for rank, log in evidence.planned_logs()
        if log.nonces != (own,)
    ]
    faults += [f"rank {rank}: no file" for rank in evidence.ranks if rank not in evidence.logs]
    for node in evidence.nodes:
        status = evidence.status(node)
        if status is None:
            faults.append(f"node {node}: {evidence.no_status(node)}")
        elif status.nonce != own:
            faults.append(f"status of node {node}: {visible(status.nonce, limit=40)} instead of {own}")
    return (
        faults,
        f"{own} in every record (ranks: {len(evidence.ranks)}) and status (nodes: {len(evidence.nodes)})",
    )


def end_records(evidence: Evidence) -> Finding:
    faults = []
    for rank in evidence.ranks:
        log = evidence.logs.get(rank)
        fault = "no file" if log is None else _end_fault(evidence, log)
        if fault:
            faults.append(f"rank {rank}: {fault}")
    counts = sorted({log.end.count for _, log in evidence.planned_logs() if log.end})
    return faults, (
        f"{len(evidence.ranks)} end records, last in their files, repeated by status.json; "
        f"records before them: {', '.join(str(count) for count in counts)}"
    )


def _end_fault(evidence: Evidence, log: RankLog) -> str | None:
    end, status = log.end, evidence.rank_status(log.rank)
    if end is None:
        return "no end record"
    if not log.end_is_last:
        return f"its end record at line {end.line} is not the last of {log.num_lines} lines"
    if end.count != log.count_before_end:
        return f"its end record counts {end.count} records, the file has {log.count_before_end} before it"
    if end.sha256 != log.sha256_before_end:
        return (
            f"SHA-256 {short_digest(end.sha256)} stated, {short_digest(log.sha256_before_end)} of the bytes"
        )
    # Who observes an external program does not count its steps: its log says them.
    if evidence.cell.job.program is None and end.steps != evidence.cell.job.steps.total:
        return f"its end record states {end.steps} steps of {evidence.cell.job.steps.total}"
    if status is None:
        return "status.json does not list it"
    if (status.end_count, status.end_sha256) != (end.count, end.sha256):
        repeated = f"{status.end_count} and {short_digest(status.end_sha256)}"
        return f"status.json repeats {repeated}, not its end record"
    return None


def exit_codes(evidence: Evidence) -> Finding:
    faults = []
    for launch in evidence.cell.launches:
        node = launch.node_rank
        status = evidence.status(node)
        if status is None:
            faults.append(f"node {node}: {evidence.no_status(node)}")
            continue
        listed = sorted(rank.rank for rank in status.ranks)
        if listed != sorted(launch.ranks):
            faults.append(f"node {node}: its status lists {ranks_text(listed) if listed else 'no rank'}")
        if status.node_rank != node:
            faults.append(f"node {node}: its status calls itself node {status.node_rank}")
        if status.stopped_by is not None:
            faults.append(f"node {node}: stopped by {visible(status.stopped_by, limit=40)}")
        for rank in status.ranks:
            if rank.exit_code != 0 or rank.signal is not None or rank.killed:
                how = f"signal {visible(rank.signal, limit=40)}" if rank.signal else f"exit {rank.exit_code}"
                by = ", stopped by the launcher" if rank.killed else ""
                faults.append(f"rank {rank.rank}: {how}{by}")
    faults += [
        f"{visible(node, limit=60)}: docker says OOMKilled, whatever the exit code"
        for node in evidence.host.oom_killed
    ]
    if evidence.host.launcher_exit != 0:
        faults.append(f"launcher: exit {evidence.host.launcher_exit}")
    return faults, f"{len(evidence.ranks)} ranks and the launcher: exit 0"


def _nonces_text(nonces: tuple[str, ...]) -> str:
    return ", ".join(visible(nonce, limit=40) or "(empty)" for nonce in nonces) or "no record"
