"""stacks.json of one node → where its ranks stood when somebody asked (docs/contract.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.parse.strict import Fields, Misread, strict_object

MAX_STACKS_BYTES = 64 << 20
_FRAME = re.compile(r'^ {2}File "([^"\n]{0,400})", line (\d{1,9}) in (\S{1,200})$')


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    file: str
    line: int
    function: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """Where one rank stood. `state` is the kernel's letter, `cpu_share` in cores; `frames` are those of its
    main thread, the innermost first; `text` is all that it wrote, to be escaped where it is shown.
    """

    rank: int
    pid: int | None
    state: str | None
    waits_in: str | None
    cpu_share: float | None
    frames: tuple[Frame, ...]
    text: str | None


def read_stacks(data: bytes, *, nonce: str) -> tuple[Stand, ...]:
    """What `data` says; nothing where it is not of this run or no launcher wrote it. Never raises."""
    if len(data) > MAX_STACKS_BYTES:
        return ()
    try:
        fields = strict_object(data)
        if fields.integer("contract") != 1 or fields.text("nonce", limit=64) != nonce:
            return ()
        return tuple(_stand(one) for one in fields.objects("ranks"))
    except Misread:
        return ()


def _stand(fields: Fields) -> Stand:
    text = fields.optional_text("stack")
    return Stand(
        rank=fields.integer("rank"),
        pid=fields.optional_integer("pid"),
        state=fields.optional_text("state", limit=1),
        waits_in=fields.optional_text("waits_in", limit=80),
        cpu_share=fields.optional_number("cpu_share"),
        frames=main_frames(text or ""),
        text=text,
    )


def main_frames(text: str) -> tuple[Frame, ...]:
    """Those of the main thread: faulthandler writes it last, and as the current one where a signal asked."""
    threads: list[list[Frame]] = []
    current: list[Frame] | None = None
    for line in text.splitlines():
        if line.startswith(("Thread 0x", "Current thread 0x", "Stack (most recent")):
            threads.append([])
            if line.startswith("Current"):
                current = threads[-1]
        elif threads and (found := _FRAME.match(line)):
            threads[-1].append(Frame(file=found[1], line=int(found[2]), function=found[3]))
    chosen = current or (threads[-1] if threads else [])
    return tuple(chosen)
