"""The four ways a check ends."""

from __future__ import annotations

from orchestrator.doctor.findings import Check, Owner
from orchestrator.messages import Message


def both(text: str) -> Message:
    """The same in every language: a command, a figure, what a program said."""
    return Message(text, text)


def ok(name: str, zh: str, en: str, *, shown: str = "") -> Check:
    return Check(name=name, severity="ok", message=Message(zh, en), shown=shown)


def unasked(name: str, zh: str, en: str) -> Check:
    return Check(name=name, severity="unasked", message=Message(zh, en))


def missed(name: str, why: str) -> Check:
    return unasked(name, f"未得到回答：{why}", f"no answer: {why}")


def warn(
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
        severity="warn",
        code=code,
        message=Message(zh, en),
        owner=owner,
        fix=both(fix) if isinstance(fix, str) else fix,
        shown=shown,
    )


def bad(
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
        severity="bad",
        code=code,
        message=Message(zh, en),
        owner=owner,
        fix=both(fix) if isinstance(fix, str) else fix,
        shown=shown,
    )


def gib(size: float) -> str:
    """Bytes in GiB, three figures."""
    return f"{size / 1024**3:.3g} GiB" if size < 1024**4 else f"{size / 1024**4:.3g} TiB"
