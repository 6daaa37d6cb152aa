"""Prints which build of each named package set-up chose and how much disk it takes: a CUDA torch is
gigabytes, a CPU one is not.
"""

from __future__ import annotations

import sys
from importlib.metadata import distribution


def main() -> None:
    for name in sys.argv[1:]:
        found = distribution(name)
        size = sum(file.locate().stat().st_size for file in found.files or () if file.locate().is_file())
        flavour = found.version.partition("+")[2] or "default build"
        print(f"set-up: {name} {found.version} ({flavour}), {size / 2**20:,.0f} MiB installed")


if __name__ == "__main__":
    main()
