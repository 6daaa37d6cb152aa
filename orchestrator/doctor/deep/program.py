"""The measuring program as text: trainer modules that need no file in the container they run in. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

LOADER = """\
import json, os, sys, types
for name, text in json.loads({sources!r}).items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name + ".py", "exec"), module.__dict__)
"""


def program(trainer: Path, request: dict[str, Any]) -> bytes:
    """What `python3 -` is given on standard input: it starts one process a device, each with the same modules
    and torch, and prints one line.
    """
    texts = {name: (trainer / f"{name}.py").read_text("utf-8") for name in ("device", "ceiling")}
    rank = LOADER.format(sources=json.dumps(texts))
    rank += 'sys.modules["ceiling"].rank(json.loads(os.environ["NX8_CEILING"]))\n'
    # Only the ranks import torch, and device.py with it.
    launcher = LOADER.format(sources=json.dumps({"ceiling": texts["ceiling"]}))
    launcher += f'sys.exit(sys.modules["ceiling"].main(json.loads({json.dumps(request)!r}), {rank!r}))\n'
    return launcher.encode("utf-8")
