"""Numbers as the published tables write them. Data keep every digit; only here is anything rounded."""

from __future__ import annotations

GIB = 1024**3


def significant(value: float, *, digits: int = 4, whole_from: int | None = 1000) -> str:
    """At least `digits` significant digits without an exponent; from `whole_from` on the nearest integer.

    Beyond 1e-4 … 1e15, and beyond 1e5 where `whole_from` is None, with an exponent.
    """
    if value == 0:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    if exponent < -4 or exponent >= (15 if whole_from else 5):
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    if whole_from is not None and abs(value) >= whole_from:
        return f"{value:.0f}"
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def per_cent(fraction: float, *, digits: int = 2) -> str:
    return f"{fraction * 100:.{digits}f}%"


def gib(num_bytes: float) -> str:
    """Bytes in GiB (1024³), one decimal as in the published mem column; a tiny amount keeps what makes it
    visible.
    """
    amount = num_bytes / GIB
    return f"{amount:.1f}" if amount >= 0.05 or amount == 0 else significant(amount, digits=2)


def seconds(value: float) -> str:
    return f"{significant(value, whole_from=10000)} s"
