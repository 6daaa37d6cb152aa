"""The files that start a nightly: a systemd service and timer, or a line of cron. Texts are pure; writing
never overwrites what a person edited.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Problem
from orchestrator.results.storage import replace_with, storage_problem
from orchestrator.text import Name, fits, wants

if TYPE_CHECKING:
    from collections.abc import Iterable

_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_MARK = "# nx8 "
#: Words that systemd and a shell both read as they stand.
_PLAIN = re.compile(r"[A-Za-z0-9_./:=@+-]+")
#: Beside the budget: looking, the last clean-up, judging.
GRACE_S = 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to start, when, as whom. `program`: nx8's path; `user`: null is the unit's own (root for a system
    unit); `at`: HH:MM of the machine's own time.
    """

    suite: str
    cluster: str
    program: Path
    home: Path
    at: str = "02:00"
    textfile: Path | None = None
    user: str | None = None
    budget_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    path: Path
    text: str


def name_of(wanted: Wanted) -> str:
    return f"nx8-nightly-{wanted.suite}-{wanted.cluster}"


def argv(wanted: Wanted) -> tuple[str, ...]:
    """The command of a night. systemd refuses a program whose own path has quotes in it, but not env's."""
    words = [] if _PLAIN.fullmatch(str(wanted.program)) else ["/usr/bin/env"]
    words += [str(wanted.program), "--home", str(wanted.home), "nightly", "run", wanted.suite]
    words += ["--cluster", wanted.cluster, "--quiet"]
    return (*words, *(("--textfile", str(wanted.textfile)) if wanted.textfile else ()))


def systemd(wanted: Wanted, folder: Path) -> tuple[File, ...]:
    """Service and timer. Raises ConfigError (E743) for what such files cannot say."""
    _checked(wanted)
    limit = "infinity" if wanted.budget_s is None else f"{round(wanted.budget_s) + GRACE_S}"
    service = f"""\
[Unit]
Description=Nx8 nightly: suite {wanted.suite} on cluster {wanted.cluster}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart={" ".join(_unit_word(word) for word in argv(wanted))}
WorkingDirectory={_unit_path(wanted.home)}
{f"User={wanted.user}" if wanted.user else "# User= is left away: the account that runs this unit manager"}
Environment=NO_COLOR=1
# 6: the cluster is busy, or the night before has not ended. That is normal.
SuccessExitStatus=6
# The word by which a run stops its containers, keeps its logs and writes its report.
KillSignal=SIGINT
KillMode=mixed
TimeoutStartSec={limit}
TimeoutStopSec=10min
"""
    timer = f"""\
[Unit]
Description=Nx8 nightly: suite {wanted.suite} on cluster {wanted.cluster}

[Timer]
OnCalendar=*-*-* {wanted.at}:00
# After a night that the machine slept through, once, as soon as it is up.
Persistent=true
AccuracySec=1min

[Install]
WantedBy=timers.target
"""
    name = name_of(wanted)
    return (
        File(path=folder / f"{name}.service", text=marked(service)),
        File(path=folder / f"{name}.timer", text=marked(timer)),
    )


def cron(wanted: Wanted, folder: Path) -> File:
    """A file of /etc/cron.d. What a quiet night says goes to MAILTO; one in band says nothing."""
    _checked(wanted)
    found = _TIME.fullmatch(wanted.at)
    assert found is not None
    words = " ".join(_cron_word(word) for word in argv(wanted))
    text = f"""\
# m h dom mon dow user command. A second night while one is at work exits 6 and touches nothing.
NO_COLOR=1
{int(found[2])} {int(found[1])} * * * {wanted.user or "root"} {words}
"""
    return File(path=folder / name_of(wanted).replace(".", "_"), text=marked(text))


def _checked(wanted: Wanted) -> None:
    problems = []
    if not _TIME.fullmatch(wanted.at):
        problems.append(
            Problem(
                code="E743", message=f"--at {wanted.at[:40]!a} is no time", help="HH:MM, for example 02:00"
            )
        )
    if wanted.user is not None and not fits(Name, wanted.user):
        message = f"--as {wanted.user[:40]!a} is no account: wants {wants(Name)}"
        problems.append(Problem(code="E743", message=message, help="the account's name, as `id` shows it"))
    paths = [wanted.program, wanted.home, *([wanted.textfile] if wanted.textfile else [])]
    problems += [
        Problem(code="E743", message=f"{str(path)!a} cannot stand in a unit or a crontab", help="move it")
        for path in paths
        if re.search(r"[\x00-\x1f\x7f]", str(path))
    ]
    if problems:
        raise ConfigError(problems)


def _unit_word(word: str) -> str:
    """As systemd.service(5) quotes: in double quotes, with \\, " escaped, and %, $ doubled."""
    word = word.replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(word.replace("%%", "").replace("$$", "") or "x"):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _unit_path(path: Path) -> str:
    """A path takes the rest of its line; only specifiers are special."""
    return str(path).replace("%", "%%")


def _cron_word(word: str) -> str:
    """As a shell quotes, and then as cron, which reads an unescaped % as a line's end."""
    return shlex.quote(word).replace("%", "\\%")


def marked(text: str) -> str:
    """The text under a line that says whether anybody has changed it since."""
    return f"{_MARK}{hashlib.sha256(text.encode()).hexdigest()}: written by `nx8 nightly install`\n{text}"


def is_ours(text: str) -> bool:
    """Whether the file is as `nx8 nightly install` wrote it."""
    first, _, rest = text.partition("\n")
    return first.startswith(_MARK) and first[len(_MARK) :][:64] == hashlib.sha256(rest.encode()).hexdigest()


def install(files: Iterable[File]) -> tuple[Path, ...]:
    """Writes what is not there or is still as we wrote it; returns what it wrote.

    Raises ConfigError (E743) for a file that somebody edited, and then writes none; E840 for a folder that
    cannot be written.
    """
    ones = tuple(files)
    problems = []
    for one in ones:
        there = _read(one.path)
        if there is not None and there != one.text and not is_ours(there):
            problems.append(
                Problem(
                    code="E743",
                    message=f"{one.path} was edited, or is not ours: it stays as it is",
                    help="--dry-run prints the new text; remove the file to have it written",
                )
            )
    if problems:
        raise ConfigError(problems)
    written = []
    for one in ones:
        if _read(one.path) == one.text:
            continue
        try:
            one.path.parent.mkdir(parents=True, exist_ok=True)
            replace_with(one.path, one.text.encode(), mode=0o644, exactly=True)
        except OSError as error:
            raise ConfigError(storage_problem(error, one.path, code="E840")) from error
        written.append(one.path)
    return tuple(written)


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(storage_problem(error, path, code="E840")) from error
