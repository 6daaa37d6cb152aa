"""What the host kept in the run's folder to judge with: lengths of samples, and the key of the questions."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.derive.rawfiles import read_bytes
from orchestrator.errors import ConfigError
from orchestrator.metrics.summary import Computed, Metric, NoValueError, measured
from orchestrator.mmmu import Answer, Answers, Score, read_key, score
from orchestrator.parse.visible import short_digest, visible
from orchestrator.tokenizers import Bytes, tokenizer
from orchestrator.verdict.order import Lists, read_list
from orchestrator.verdict.proofs import Proof

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.parse.events import RankLog
    from orchestrator.plan import Cell
    from orchestrator.results import RunFolder
    from orchestrator.tokenizers import Tokenizer
    from orchestrator.verdict import HostSeen

#: Ten million samples.
MAX_LIST_BYTES = 40_000_000
MAX_TOKENIZER_BYTES = 64 << 20


def lists_of(run: RunFolder, cell: Cell) -> Lists | None:
    """The lengths of the cell's samples; None where it has none, or they are missing or changed."""
    if cell.lists is None:
        return None
    lengths = _content(run.path / cell.lists.lengths, cell.lists.lengths_sha256, most=MAX_LIST_BYTES)
    words = _content(run.path / cell.lists.words, cell.lists.words_sha256, most=MAX_LIST_BYTES)
    if lengths is None or words is None:
        return None
    return Lists(lengths=read_list(lengths), words=read_list(words))


def evaluated(
    run: RunFolder, cell: Cell, logs: Mapping[int, RankLog], host: HostSeen
) -> tuple[Metric, dict[str, object]]:
    """acc(MMMU), and beside it what it stands on. Never raises on what ranks wrote."""
    try:
        found = _scored(run, cell, logs, host)
    except NoValueError as reason:
        why = str(reason)

        def refused() -> Computed:
            raise NoValueError(why)

        return measured("acc_mmmu", refused), {}
    return measured("acc_mmmu", lambda: _accuracy(found)), {
        "by_subject": {subject: asdict(share) for subject, share in found.by_subject.items()},
        "num_unread": found.num_unread,
        "proofs": [asdict(proof) for proof in found.proofs],
        "decoding": "greedy: not like for like with figures that were sampled with beam search",
    }


def _scored(run: RunFolder, cell: Cell, logs: Mapping[int, RankLog], host: HostSeen) -> Score:
    planned, questions = cell.key, cell.job.questions
    assert planned is not None, "only asked where answers are scored"
    if questions is None:
        raise NoValueError("the plan asks no question")
    try:
        key, digest = read_key(run.path / planned.key)
        reader = _reader(run, cell)
    except ConfigError as error:
        raise NoValueError(error.problems[0].message) from error
    said = [answer for _, log in sorted(logs.items()) for answer in log.answers]
    answers = Answers(values=tuple(Answer(id=one.question, text=_text(reader, one.tokens)) for one in said))
    found = score(
        answers,
        key,
        key_sha256=digest,
        planned_key_sha256=planned.key_sha256,
        exit_code=host.launcher_exit,
    )
    return _with(found, _asked(cell, logs))


def _with(found: Score, proof: Proof) -> Score:
    """The score, which is one only where this proof holds as well."""
    return Score(
        total=found.total if proof.held else None,
        by_subject=found.by_subject if proof.held else {},
        num_unread=found.num_unread,
        proofs=(*found.proofs, proof),
        judged=found.judged,
    )


def _asked(cell: Cell, logs: Mapping[int, RankLog]) -> Proof:
    """Every rank says that it answered the planned questions, greedily, after its last timed step."""
    questions, faults = cell.job.questions, []
    assert questions is not None, "looked at before"
    for rank in sorted(rank for launch in cell.launches for rank in launch.ranks):
        log = logs.get(rank)
        seen = log.evaluated if log else None
        if log is None or seen is None:
            faults.append(f"rank {rank} does not say that it answered")
        elif (seen.data_sha256, seen.num_questions) != (questions.sha256, questions.num_questions):
            faults.append(f"rank {rank} was asked other questions: {visible(seen.data_sha256, limit=64)}")
        elif seen.decoding != "greedy" or seen.answered != len(log.answers):
            faults.append(
                f"rank {rank} says {seen.answered} answers, {visible(seen.decoding, limit=40)}; "
                f"there are {len(log.answers)}"
            )
        elif log.steps and seen.start_s < log.steps[-1].end_s:
            faults.append(f"rank {rank} answered while it was timed")
    digest = short_digest(questions.sha256)
    detail = "; ".join(faults[:4]) or f"questions of SHA-256 {digest}, greedily, after the last timed step"
    return Proof(name="questions_asked", held=not faults, detail=detail)


def _accuracy(found: Score) -> Computed:
    if found.total is None:
        broken = [proof for proof in found.proofs if not proof.held]
        words = "; ".join(f"{proof.name}: {proof.detail}" for proof in broken)
        raise NoValueError(words or "no question was answered")
    total = found.total
    return total.accuracy, {
        "n": total.n,
        "correct": total.correct,
        "low": total.low,
        "high": total.high,
        "num_unread": found.num_unread,
        "decoding": "greedy",
    }


def _text(reader: Tokenizer, tokens: tuple[int, ...]) -> str:
    """What a rank wrote may be no token at all: then it said nothing."""
    if any(not 0 <= token < reader.vocab_size for token in tokens):
        return ""
    try:
        return reader.decode(list(tokens))
    except Exception:  # noqa: BLE001 - whatever a library says about ids that are not its own
        return ""


def _reader(run: RunFolder, cell: Cell) -> Tokenizer:
    """The tokenizer that the host kept. Raises NoValueError, and ConfigError when its package is missing."""
    assert cell.key is not None, "looked at before"
    if cell.key.tokenizer is None or cell.key.tokenizer_sha256 is None:
        return Bytes()
    kept = run.path / cell.key.tokenizer
    content = _content(kept, cell.key.tokenizer_sha256, most=MAX_TOKENIZER_BYTES)
    if content is None:
        raise NoValueError("the tokenizer, which the host kept, is missing or changed")
    with tempfile.TemporaryDirectory(prefix="nx8-") as folder:
        copy = Path(folder) / kept.name
        copy.write_bytes(content)
        return tokenizer(str(copy))


def _content(path: Path, sha256: str, *, most: int) -> bytes | None:
    """The file's bytes if they are those that were kept."""
    found = read_bytes(path, most=most)
    return found if found is not None and hashlib.sha256(found).hexdigest() == sha256 else None
