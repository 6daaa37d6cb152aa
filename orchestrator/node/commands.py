"""Runs commands one after the other and prints what each said: the reader of versions inside an image.

Standard library only, Python 3.8 or newer. `python3 - REQUEST`, this file on standard input. REQUEST is JSON:
`argvs` (argument lists) and `limit_s`, of each. The answer is one line, a list of objects with rc (null: over
time; 127: not to be started), out and err.
"""

from __future__ import annotations

import json
import subprocess
import sys

MAX_OUTPUT = 64 * 1024


def main() -> None:
    request = json.loads(sys.argv[1])
    sys.stdout.write(json.dumps([heard(argv, request["limit_s"]) for argv in request["argvs"]]) + "\n")


def heard(argv: list[str], limit_s: float) -> dict[str, object]:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return {"rc": None, "out": "", "err": f"no answer within {limit_s:g} s"}
    except OSError as error:
        return {"rc": 127, "out": "", "err": error.strerror}
    return {"rc": done.returncode, "out": text(done.stdout), "err": text(done.stderr)}


def text(raw: bytes) -> str:
    return raw[:MAX_OUTPUT].decode("utf-8", "replace")


if __name__ == "__main__":
    main()
