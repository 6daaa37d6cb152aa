"""cluster/<name>.yaml → Cluster: where a run happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le, MinLen

from orchestrator.text import Name


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One host of the cluster."""

    name: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The nodes of one site and what is common to them.

    `devices_per_node` is the number of ranks started on each node; `data_dir` holds prepared token files,
    relative to the home folder on the local transport.
    """

    schema: Literal[1]
    description: Annotated[str, MinLen(1)]
    vendor: Name
    device: Name
    transport: Literal["local"]
    devices_per_node: Annotated[int, Ge(1), Le(64)]
    nodes: Annotated[tuple[Node, ...], MinLen(1)]
    data_dir: Annotated[str, MinLen(1)] = "results/data"

    def __post_init__(self) -> None:
        names = [node.name for node in self.nodes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"node names must differ: {', '.join(twice)} stands more than once")
        if self.transport == "local" and len(self.nodes) != 1:
            raise ValueError(
                f"transport 'local' is this machine alone, but {len(self.nodes)} nodes are listed"
            )

    @property
    def scale(self) -> str:
        """Device and size, as configs are named: `<device>x<nodes>x<devices>`, for example A800x1x8."""
        return f"{self.device}x{len(self.nodes)}x{self.devices_per_node}"
