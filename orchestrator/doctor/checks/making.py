"""The four ways a check ends."""

from __future__ import annotations

from functools import partial

from orchestrator.doctor.findings import Check, Owner, Severity
from orchestrator.messages import Message


def both(text: str) -> Message:
    """The same in every language: a command, a figure, what a program said."""
    return Message(text, text)


def ok(name: str, zh: str, en: str, *, shown: str = "") -> Check:
    return Check(name=name, severity="ok", message=Message(zh, en), shown=shown)


def unasked(name: str, zh: str, en: str) -> Check:
    return Check(name=name, severity="unasked", message=Message(zh, en))


def _problem(
    severity: Severity,
    name: str,
    code: str,
    zh: str,
    en: str,
    *,
    owner: Owner = "node",
    fix: Message | str | None,
    shown: str = "",
) -> Check:
    return Check(
        name=name,
        severity=severity,
        code=code,
        message=Message(zh, en),
        owner=owner,
        fix=both(fix) if isinstance(fix, str) else fix,
        shown=shown,
    )


warn = partial(_problem, "warn")
bad = partial(_problem, "bad")


def missed(name: str, why: str) -> Check:
    """Asked, and not answered in time: nobody knows."""
    return warn(name, "E208", f"没有得到回答：{why}", f"asked, and not answered: {why}", fix=None, shown="?")


def gib(size: float) -> str:
    """Bytes in the unit that suits, three figures."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB")):
        if size >= 1024**power:
            return f"{size / 1024**power:.3g} {unit}"
    return f"{size / 1024:.3g} KiB"
