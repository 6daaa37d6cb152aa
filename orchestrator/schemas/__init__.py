"""JSON Schemas of what people write, for their editors; generated from the dataclasses.

`python -m orchestrator.schemas` writes them anew; a test asserts that they are.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from orchestrator.cases import Case, DeviceConfig
from orchestrator.cluster import Cluster
from orchestrator.load import json_schema
from orchestrator.vendors import Vendor

if TYPE_CHECKING:
    from pathlib import Path

KINDS: dict[str, type] = {"case": Case, "cluster": Cluster, "device": DeviceConfig, "vendor": Vendor}


def texts() -> dict[str, str]:
    """File name → text of each schema."""
    return {
        f"{name}.schema.json": json.dumps(json_schema(kind), indent=2, ensure_ascii=False) + "\n"
        for name, kind in KINDS.items()
    }


def write(folder: Path) -> None:
    for name, text in texts().items():
        (folder / name).write_text(text, encoding="utf-8")
