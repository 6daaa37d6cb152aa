"""Runs and published rows, side by side: a ratio only between like and like, and every difference named.

Like is: the same case, stage and scale, batch (LBS, MPE, GAS, GBS), precision and dtype of computing,
recomputation, both the full model or the same proxy, the same clock. Devices may differ, that is what is
compared; so may the parallel strategy, which is said. A rehearsal's figures are never compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.compare.likeness import compared
from orchestrator.compare.sides import sides_of
from orchestrator.compare.table import WRITERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.messages import Language
    from orchestrator.workspace import Workspace


def document(names: Sequence[str], workspace: Workspace, form: str, language: Language) -> str:
    """The comparison as `md` or `json`. Raises as `sides_of`."""
    return WRITERS[form](compared(sides_of(names, workspace)), language)
