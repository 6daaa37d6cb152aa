"""The false-green campaign: faults made against real runs. None may end MEASURED, and each has to be refused
for its own reason. `make false-green` runs all of it and prints the table; CI takes the fast part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What has to refuse a fault: a proof that does not hold, or words of the first reasons."""

    proof: str | None = None
    cause: str | None = None

    @property
    def text(self) -> str:
        return self.proof or f"“{self.cause}”"

    def found_in(self, cell: Mapping[str, Any]) -> str | None:
        """What of the due is missing in a cell's result; None when it was refused for the right reason."""
        if cell["verdict"] == "MEASURED":
            return "MEASURED"
        if any(metric["value"] is not None for metric in cell["metrics"].values()):
            return "not MEASURED, but with numbers"
        broken = [proof["name"] for proof in cell["proofs"] if not proof["held"]]
        if self.proof is not None and self.proof not in broken:
            return f"{self.proof} holds; broken: {', '.join(broken) or 'none'}"
        if self.cause is not None and not re.search(self.cause, " | ".join(cell["reasons"][:2])):
            return f"said {cell['reasons'][:2]}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row of the table."""

    group: str
    fault: str
    due: str
    verdict: str
    missing: str | None
