#!/usr/bin/python3
"""runc for lab nodes: adds no accelerator, for there is none, and asks for no limit that this machine may not
give.

On a real node dockerd is started with unlimited hard limits. Here it may be a machine whose own are lower,
and then `--ulimit memlock=-1`, which every vendor wants, would keep each container from starting.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path


def main() -> None:
    words = sys.argv[1:]
    bundle = next((words[at + 1] for at, word in enumerate(words[:-1]) if word in ("--bundle", "-b")), None)
    if "create" in words and bundle is not None:
        clamp(Path(bundle, "config.json"))
    os.execvp("runc", ["runc", *words])


def clamp(path: Path) -> None:
    config = json.loads(path.read_text("utf-8"))
    for limit in config["process"].get("rlimits") or ():
        given = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if given != resource.RLIM_INFINITY:
            limit["hard"] = min(limit["hard"], given)
            limit["soft"] = min(limit["soft"], limit["hard"])
    path.write_text(json.dumps(config), "utf-8")


if __name__ == "__main__":
    main()
