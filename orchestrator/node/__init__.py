"""What runs on a node: the agent, standard library only, sent along over SSH."""

from __future__ import annotations

from functools import cache
from pathlib import Path

#: The one command string that is ever given to a node's shell. It reads eight digits, then that many bytes
#: of Python, and runs them; all else travels as data over the same stream. No newline in it: csh takes none
#: inside quotes.
BOOTSTRAP = (
    "exec python3 -I -S -c '"
    'import os;g=lambda n,b=b"":b if len(b)==n else g(n,b+(os.read(0,n-len(b))or os._exit(3)));'
    'exec(compile(g(int(g(8))),"nx8-agent","exec"))'
    "'"
)


@cache
def agent_source() -> bytes:
    """The agent as it is sent, in two parts of eight digits of length and so many bytes: what starts, and
    what is compiled when first asked for.
    """
    first, _, rest = _text("agent.py").partition("\n# Later\n")
    later, _, _ = rest.partition('\nif __name__ == "__main__":')
    parts = (f"{first}\nmain(g(int(g(8))))\n".encode(), f"{later}\n{_text('lock.py')}".encode())
    return b"".join(b"%08d" % len(part) + part for part in parts)


@cache
def keeper_source() -> bytes:
    """The program that watches a node's lease there, as one file."""
    _, _, rest = _text("keeper.py").partition("\n# On a node both are one file\n")
    imports = "import signal\nimport subprocess\nimport sys\n"
    return f"{_text('lock.py')}\n{imports}{rest}".encode()


def _text(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
