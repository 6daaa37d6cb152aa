"""`name ....... value`: the table of arguments that Megatron, GPT-NeoX and DeepSpeed print at first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.linear import compiled
from orchestrator.parse.dialects.record import stated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.parse.dialects.record import Stated
    from orchestrator.parse.transport import Line

MARKER = b" ..."
ROW = compiled(r"([a-z][a-z0-9_]*) \.+ (\d{1,18})(\.+[a-z]+)?")


def read_size(line: Line, names: Mapping[str, str]) -> tuple[Stated, ...]:
    """The size in this row, by our name for it; nothing where it is another argument or no plain count."""
    dots = line.text.find(MARKER.decode())
    begin = line.text.rfind(" ", 0, dots) + 1
    match = ROW.match(line.text, begin)
    if match is None or match[1] not in names or line.text[match.end() :].strip():
        return ()
    return (stated(line, names[match[1]], int(match[2])),)
