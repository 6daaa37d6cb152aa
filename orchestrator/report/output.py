"""Where a report goes: a file, put in its place in one step, or standard output."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.results.storage import replace_with, storage_problem

#: As a shell's `>` makes files, less the umask: another account may have to read them, as the one that
#: collects Prometheus' textfiles.
NEW_FILE_MODE = 0o666


def write_file(path: Path, text: str) -> None:
    """`text` as UTF-8 in `path`: a reader sees all of it or what was before. A link stays one; what is no
    regular file, a device or a pipe, is written to and never replaced.

    Raises ConfigError (E840) where that cannot be done.
    """
    data = text.encode("utf-8")
    try:
        target = path.resolve()
        mode = target.stat().st_mode if target.exists() else None
        if mode is None:
            replace_with(target, data, mode=NEW_FILE_MODE)
        elif stat.S_ISREG(mode):
            replace_with(target, data, mode=stat.S_IMODE(mode), exactly=True)
        else:
            with target.open("wb", buffering=0) as file:
                file.write(data)
    except (OSError, RuntimeError) as error:
        raise _refused(error, str(path)) from error


def write_out(text: str) -> None:
    """`text` on standard output as UTF-8, whatever the terminal's encoding is.

    Raises ConfigError (E840); BrokenPipeError as it is.
    """
    try:
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # Python would try once more when it ends, and complain.
        sys.stdout = None
        raise _refused(error, "standard output") from error


def _refused(error: Exception, where: str) -> ConfigError:
    cause = error if isinstance(error, OSError) else OSError(str(error))
    return ConfigError(storage_problem(cause, Path(where), code="E840"))
