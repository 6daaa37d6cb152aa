"""What one rank's device has to hold, by pipeline stage: the values that footprint.py works out. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Of one rank of pipeline stage `stage`, in bytes. `num_parameters` are this rank's own; `in_flight` how
    many micro-batches (of an interleaved pipeline: of pieces) wait for their backward at most.
    """

    stage: int
    num_layers: int
    num_parameters: int
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    in_flight: int
    activation_bytes: int

    @property
    def state_bytes(self) -> int:
        """What is there before the first micro-batch."""
        return self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes

    @property
    def total_bytes(self) -> int:
        return self.state_bytes + self.activation_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """The estimate with its formula; `capacity_bytes` null where the device's memory is not known."""

    stages: tuple[StageMemory, ...]
    formula: str
    source: str
    capacity_bytes: int | None

    @property
    def fullest(self) -> StageMemory:
        return max(self.stages, key=lambda stage: stage.total_bytes)
