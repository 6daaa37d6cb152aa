"""nx8 as a process of its own, from its start to its end."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def hear_signals() -> None:
    """Who starts the tests in the background, or with nohup, has signals ignored; children inherit that."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def begun(home: Path, *words: str) -> subprocess.Popen[str]:
    """`nx8 WORDS` on `home`, both outputs piped."""
    return subprocess.Popen(
        (sys.executable, "-m", "orchestrator", "--home", str(home), *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
        preexec_fn=hear_signals,  # noqa: PLW1509 - one thread here
    )


def ended(process: subprocess.Popen[str], *, limit_s: float) -> tuple[int, str, str]:
    """Exit code, standard output and standard error; killed when it does not end within `limit_s`."""
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    finally:
        process.kill()
    return process.returncode, stdout, stderr
