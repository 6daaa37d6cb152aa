"""What the cells of a run read, found and checked on this machine before anything is planned; what is
missing and can be made from nothing is made.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from orchestrator import data, multimodal, weights
from orchestrator.errors import ConfigError, Problem
from orchestrator.multimodal.lists import AnswerKey, Samples, answer_key, samples
from orchestrator.options import works_of
from orchestrator.planner import Sources

if TYPE_CHECKING:
    from orchestrator.cases import Data, Evaluation
    from orchestrator.plan import Plan
    from orchestrator.selection import Selection


def prepared(selection: Selection, folder: Path, *, write: bool) -> Sources:
    """Every case's data, questions and weights in `folder`, checked. What is built in and not there is
    prepared; `write` also keeps it. Raises ConfigError with all that is missing or changed.
    """
    wanted = [work for chosen in selection.cases for work in works_of(chosen.case, selection)]
    found: dict[str, data.Manifest | Samples] = {}
    keys: dict[str, AnswerKey] = {}
    lists: dict[str, str] = {}
    problems: list[Problem] = []
    with ExitStack() as exits:

        def place(one: Data | Evaluation) -> Path:
            if not _is_to_be_made(one, folder):
                return folder
            into = folder if write else Path(exits.enter_context(TemporaryDirectory(prefix="nx8-")))
            multimodal.prepare_proxy(one.name, folder=into)
            return into

        for one in {work.data for work in wanted}:
            try:
                found[one.name] = (
                    _token_file(one, folder, write=write) if one.num_tokens else _set(one, place(one))
                )
            except ConfigError as error:
                problems += error.problems
        for test in {work.evaluation for work in wanted if work.evaluation}:
            try:
                where = place(test)
                questions = _set(test, where)
                found[test.name], keys[test.name] = questions, answer_key(where, questions.manifest)
            except ConfigError as error:
                problems += error.problems
    for name in {name for work in wanted for name in work.weights}:
        try:
            lists[name] = weights.listed(folder, name)[1]
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Sources(data=found, keys=keys, weights=lists)


def kept(planned: Plan, sources: Sources) -> dict[str, bytes]:
    """What judging needs beside the records, by its name below the run's folder."""
    files: dict[str, bytes] = {}
    for cell in planned.cells:
        source = sources.data[cell.job.data.name]
        if cell.lists is not None and isinstance(source, Samples):
            files[cell.lists.lengths], files[cell.lists.words] = source.lengths, source.words
        if cell.key is not None and cell.job.questions is not None:
            key = sources.keys[cell.job.questions.name]
            files[cell.key.key] = key.key
            if cell.key.tokenizer is not None and key.tokenizer is not None:
                files[cell.key.tokenizer] = key.tokenizer
    return files


def _token_file(wanted: Data, folder: Path, *, write: bool) -> data.Manifest:
    if wanted.builtin is not None and not data.manifest_file(folder, wanted.name).exists():
        made = data.prepare_builtin(wanted)
        if write:
            data.store(made, folder)
        return made.manifest
    return data.verify(folder, wanted.name, how=wanted.prepare)


def _is_to_be_made(wanted: Data | Evaluation, folder: Path) -> bool:
    return wanted.builtin == "shapes" and not multimodal.is_set(folder, wanted.name)


def _set(wanted: Data | Evaluation, folder: Path) -> Samples:
    try:
        return samples(folder, wanted.name)
    except ConfigError as error:
        raise ConfigError(
            Problem(code=one.code, message=one.message, file=one.file, help=f"make it once: {wanted.prepare}")
            if one.code == "E721" and wanted.prepare
            else one
            for one in error.problems
        ) from error
