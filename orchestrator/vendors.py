"""dockerfiles/<vendor>/vendor.yaml → Vendor: on whose accelerators a run happens. A vendor is data; no code
names one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Gt, MinLen

from orchestrator.text import EnvName, Line, ModuleName, Name

ComputeDtype = Literal["fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Dense peak arithmetic of one device as torch sees it (a die, where a card has several).

    `tflops` is null when unknown, and then `reason` says why; a known figure names its `source`.
    """

    tflops: Annotated[float, Gt(0)] | None
    source: Line | None = None
    reason: Line | None = None

    def __post_init__(self) -> None:
        if self.tflops is not None and self.source is None:
            raise ValueError("a peak figure needs its source: where is this number published?")
        if self.tflops is None and self.reason is None:
            raise ValueError(
                "an unknown peak (null) needs a reason; without it nobody knows why there is no MFU"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator model of a vendor."""

    display_name: Line
    peaks: dict[ComputeDtype, Peak]
    memory_gib: Annotated[float, Gt(0)] | None = None
    memory_reason: Line | None = None

    def __post_init__(self) -> None:
        if self.memory_gib is None and self.memory_reason is None:
            raise ValueError("memory_gib is null: say why in memory_reason")

    def peak(self, dtype: str) -> Peak:
        """The peak for `dtype`; an unlisted one is unknown, with that as the reason."""
        for listed, peak in self.peaks.items():
            if listed == dtype:
                return peak
        return Peak(tflops=None, reason=f"no {dtype} peak is listed for {self.display_name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchStack:
    """How torch reaches the device: names that the trainer looks up, never branches on."""

    device_type: Name
    backend: Name
    plugin: ModuleName | None = None
    deepspeed_accelerator: Name | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A combination that the vendor's stack cannot run; planning refuses it with `reason`. Empty fields
    match anything.
    """

    reason: Line
    engine: Literal["deepspeed", "ddp"] | None = None
    compute_dtype: ComputeDtype | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """A maker's whole stack as this project drives it."""

    schema: Literal[1]
    display_name: Line
    torch: TorchStack
    devices: Annotated[dict[Name, Device], MinLen(1)]
    launcher: Literal["fork", "torchrun"] = "torchrun"
    environment: dict[EnvName, Line] = field(default_factory=dict)
    refuses: tuple[Refusal, ...] = ()

    def refusal(self, *, engine: str, compute_dtype: str) -> Refusal | None:
        """The first refusal that covers this combination, if any."""
        for refusal in self.refuses:
            if refusal.engine in (None, engine) and refusal.compute_dtype in (None, compute_dtype):
                return refusal
        return None
