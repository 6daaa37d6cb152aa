"""What kind of failure a failure is, by the words in which torch, the vendors' stacks and the kernel tell it.
Pure: fixed words, no pattern that could take long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: How much of a message is looked into.
MAX_CHARS = 4096
#: What a rank exits with that had no room for its records, and the launcher that had none for its status.
NO_ROOM = 73
_DEVICE_TYPES = ("OutOfMemoryError", "DeferredCudaCallError")
_DEVICE_WORDS = (
    "cuda out of memory",
    "npu out of memory",
    "hip out of memory",
    "mlu out of memory",
    "musa out of memory",
    "xpu out of memory",
    "cuda error: out of memory",
    "hip error: out of memory",
    "out of memory. tried to allocate",
    "cublas_status_alloc_failed",
    "acl_error_rt_memory_allocation",
    "device memory exhausted",
)
_HOST_WORDS = (
    "defaultcpuallocator: can't allocate memory",
    "cannot allocate memory",
    "std::bad_alloc",
    "unable to allocate",
)
_DISK_WORDS = ("no space left on device", "disk quota exceeded")


def label(kind: str, message: str) -> str | None:
    """`out of memory (device)`, `out of memory (host)`, `disk full` or None: of an exception."""
    text = message[:MAX_CHARS].lower()
    if kind.rpartition(".")[2] in _DEVICE_TYPES or _any(_DEVICE_WORDS, text):
        return "out of memory (device)"
    if kind == "MemoryError" or _any(_HOST_WORDS, text):
        return "out of memory (host)"
    if _any(_DISK_WORDS, text):
        return "disk full"
    return None


def _any(words: Iterable[str], text: str) -> bool:
    return any(word in text for word in words)
