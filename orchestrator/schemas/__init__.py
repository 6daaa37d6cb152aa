"""JSON Schemas: of what people write, for their editors, and of what `nx8` writes, for programs that read it;
generated from the dataclasses.

`python -m orchestrator.schemas` writes them anew; a test asserts that they are.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestrator.cases import Case
from orchestrator.cluster import Cluster
from orchestrator.configs import DeviceConfig
from orchestrator.load import json_schema
from orchestrator.schemas.outputs import Doctor, Report, Result
from orchestrator.suites import Suite
from orchestrator.vendors import Vendor

if TYPE_CHECKING:
    from pathlib import Path

#: What people write: unknown keys are refused.
KINDS: dict[str, type] = {
    "case": Case,
    "cluster": Cluster,
    "device": DeviceConfig,
    "suite": Suite,
    "vendor": Vendor,
}
#: What `nx8` writes: a later version may add keys, and a reader passes over those it does not know.
OUTPUTS: dict[str, type] = {"result": Result, "report": Report, "doctor": Doctor}


def texts() -> dict[str, str]:
    """File name → text of each schema."""
    made = {name: json_schema(kind) for name, kind in KINDS.items()}
    made |= {name: _open(json_schema(kind)) for name, kind in OUTPUTS.items()}
    return {
        f"{name}.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in made.items()
    }


def _open(schema: Any) -> Any:
    """The schema with further keys allowed, at every depth."""
    if isinstance(schema, list):
        return [_open(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _open(part)
        for key, part in schema.items()
        if not (key == "additionalProperties" and part is False)
    }


def write(folder: Path) -> None:
    for name, text in texts().items():
        (folder / name).write_text(text, encoding="utf-8")
