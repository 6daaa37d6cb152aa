"""What is kept about a cell that stands still, and where: names, limits, and how much of it."""

from __future__ import annotations

#: In the folder of each node: where its ranks stood, what the kernel and the vendor's probe said.
STACKS = "stacks.json"
DMESG = "dmesg.txt"
PROBE = "probe.txt"
#: Longer than a launcher takes to ask its ranks (docs/contract.md).
LOOK_LIMIT_S = 10.0
#: The last words of the kernel that are kept.
KERNEL_LINES = 300
KERNEL_BYTES = 256 * 1024


def kernel_words(output: bytes) -> bytes:
    """The end of what dmesg prints, in whole lines."""
    lines = output.splitlines(keepends=True)[-KERNEL_LINES:]
    kept, size = [], 0
    for line in reversed(lines):
        size += len(line)
        if size > KERNEL_BYTES:
            break
        kept.append(line)
    return b"".join(reversed(kept))
