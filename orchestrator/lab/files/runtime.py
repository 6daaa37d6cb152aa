#!/usr/bin/python3
"""runc for lab nodes: adds no accelerator, for there is none, and asks for no limit that this machine may not give.

On a real node dockerd is started with unlimited hard limits. Here it may be a machine whose own are lower, and
then `--ulimit memlock=-1`, which every vendor wants, would keep each container from starting.
"""

import json
import os
import resource
import sys


def main():
    words = sys.argv[1:]
    bundle = next((words[at + 1] for at, word in enumerate(words[:-1]) if word in ("--bundle", "-b")), None)
    if "create" in words and bundle is not None:
        clamp(os.path.join(bundle, "config.json"))
    os.execvp("runc", ["runc", *words])


def clamp(path):
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    for limit in config["process"].get("rlimits") or ():
        given = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if given != resource.RLIM_INFINITY:
            limit["hard"] = min(limit["hard"], given)
            limit["soft"] = min(limit["soft"], limit["hard"])
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)


if __name__ == "__main__":
    main()
