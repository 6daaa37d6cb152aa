"""Text from files of a run, made safe to keep and to show: it can neither draw on a terminal nor add a line
to a file.
"""

from __future__ import annotations

import re
import unicodedata

_SURROGATES = re.compile("[\ud800-\udfff]")
#: Controls, invisible format characters (bidi overrides, zero widths), surrogates, line and paragraph
#: separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: str, *, limit: int = 300) -> str:
    r"""One printable line of at most `limit` characters: hidden ones become \xNN, \uNNNN or \UNNNNNNNN, a cut
    ends in `…`.

    What is already visible comes back unchanged, so applying it twice does no harm.
    """
    shown = "".join(_escaped(char) for char in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def visible_bytes(data: bytes, *, limit: int = 120) -> str:
    r"""`data` read as UTF-8; bytes that are none become \xNN."""
    return visible(data[: 4 * limit].decode("utf-8", "backslashreplace"), limit=limit)


def visible_lines(text: str, *, most: int = 400) -> str:
    """`text` with every line made visible, the last `most` of them: of a traceback the end says most."""
    lines = text.splitlines()
    kept = [visible(line.replace("\t", "    "), limit=500) for line in lines[-most:]]
    return "\n".join([f"… {len(lines) - most} lines before", *kept] if len(lines) > most else kept)


def encodable(text: str) -> str:
    r"""`text` with lone surrogates, which JSON's \ud800 makes and UTF-8 cannot hold, replaced by U+FFFD."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def ranks_text(ranks: list[int]) -> str:
    """`rank 3`, `ranks 0-2, 5`: ascending, runs of three and more folded."""
    ordered = sorted(set(ranks))
    runs: list[list[int]] = []
    for rank in ordered:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    parts = [
        part
        for run in runs
        for part in ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(rank) for rank in run])
    ]
    return f"{'rank' if len(ordered) == 1 else 'ranks'} {', '.join(parts)}"


def short_digest(digest: str | None) -> str:
    """The first 12 characters of a digest, enough to tell two apart."""
    return "nothing" if digest is None else visible(digest, limit=64)[:12]


def _escaped(char: str) -> str:
    if unicodedata.category(char) not in _HIDDEN:
        return char
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
