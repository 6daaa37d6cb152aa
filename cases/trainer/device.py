"""One device, addressed by the names in job.json: nothing here knows which makes of device there are."""

from __future__ import annotations

import importlib
import os
import platform
import resource
import time
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Tuple

import torch

if TYPE_CHECKING:
    import job as jobs


class DeviceError(RuntimeError):
    """The planned device is not there."""


class Device:
    """The device of this rank. Raises DeviceError when torch does not know its type or the plug-in is
    missing.
    """

    def __init__(self, planned: jobs.Device, local_rank: int) -> None:
        if planned.deepspeed_accelerator is not None:
            os.environ["DS_ACCELERATOR"] = planned.deepspeed_accelerator
        if planned.plugin is not None:
            try:
                importlib.import_module(planned.plugin)
            except ImportError as error:
                raise DeviceError("device.plugin {}: {}".format(planned.plugin, error)) from error
        self.type = planned.type
        self._module = getattr(torch, planned.type, None)
        if self._module is None:
            raise DeviceError(
                "device.type {}: torch {} has no torch.{}".format(self.type, torch.__version__, self.type)
            )
        if self.is_host:
            self.device = torch.device(self.type)
        else:
            self.device = torch.device(self.type, local_rank)
            self._function("set_device")(local_rank)
        self.synchronize: Callable[[], Any] = _nothing if self.is_host else self._function("synchronize")
        self.tf32: Optional[bool] = None
        """Whether torch rounds float32 products to TF32; None where it has no switch for that."""

    @property
    def is_host(self) -> bool:
        """True when tensors live in the host's own memory and operations are done when they return."""
        return self.type == "cpu"

    @property
    def name(self) -> str:
        if self.is_host:
            return _processor_name()
        named = getattr(self._module, "get_device_name", None)
        return str(named(self.device.index)) if named else self.type

    def seed(self, number: int) -> None:
        """Seeds torch's generators, on the host and on the devices of this type."""
        torch.manual_seed(number)  # before torch 2.1 it forgets those of plug-ins
        seed_all = getattr(self._module, "manual_seed_all", None)
        if seed_all is not None and not self.is_host:
            seed_all(number)

    def set_tf32(self, wanted: bool) -> None:
        """Switches TF32 in float32 products on or off wherever torch has a switch: libraries of convolutions
        have their own, on by default. `tf32` then says what is in force.
        """
        torch.set_float32_matmul_precision("high" if wanted else "highest")
        for library in vars(torch.backends).values():
            if hasattr(library, "allow_tf32"):
                library.allow_tf32 = wanted
        products = getattr(getattr(torch.backends, self.type, None), "matmul", None)
        if hasattr(products, "allow_tf32"):
            products.allow_tf32 = wanted
            self.tf32 = bool(products.allow_tf32)

    def peak_allocated_bytes(self) -> Optional[int]:
        return self._statistic("max_memory_allocated")

    def peak_reserved_bytes(self) -> Optional[int]:
        return self._statistic("max_memory_reserved")

    def _statistic(self, name: str) -> Optional[int]:
        function = None if self.is_host else getattr(self._module, name, None)
        return int(function()) if function else None

    def _function(self, name: str) -> Callable[..., Any]:
        function = getattr(self._module, name, None)
        if function is None:
            raise DeviceError(
                "torch.{} has no {}(): it cannot be trained on or timed".format(self.type, name)
            )
        return function


class Stopwatch:
    """Adds up stretches of the device's work without waiting for it: by the host's clock where work is done
    when it returns, else by the device's own events, read later.
    """

    def __init__(self, device: Device) -> None:
        self._event = None if device.is_host else getattr(device._module, "Event", None)
        self._known = device.is_host or self._event is not None
        self._host_s = 0.0
        self._pairs: List[Tuple[Any, Any]] = []

    def read_s(self) -> Optional[float]:
        """Seconds since it was read last, and begins anew; null where the device has no events. After the
        device was waited for.
        """
        total_s, pairs = self._host_s, self._pairs
        self._host_s, self._pairs = 0.0, []
        if not self._known:
            return None
        return total_s + sum(begin.elapsed_time(end) for begin, end in pairs) / 1e3

    def __enter__(self) -> None:
        if self._event is None:
            self._begin = time.monotonic()
        else:
            self._begin = self._event(enable_timing=True)
            self._begin.record()

    def __exit__(self, *_: object) -> None:
        if self._event is None:
            self._host_s += time.monotonic() - self._begin
        else:
            end = self._event(enable_timing=True)
            end.record()
            self._pairs.append((self._begin, end))


def peak_rss_bytes() -> int:
    """Of this process alone. VmHWM starts anew at a fork, ru_maxrss does not in every kernel."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _nothing() -> None:
    pass


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
