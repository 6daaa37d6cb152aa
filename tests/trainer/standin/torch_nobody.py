"""A plug-in for a device that nobody has: `import torch_nobody` gives torch the device type `nobody`, with
the namespace torch.nobody as vendors' plug-ins have it, and the process-group backend `nobodyccl`.

Calls that the trainer has to make are written down, one a line, for the test to read.
"""

from __future__ import annotations

import os
import types
from pathlib import Path

import torch
import torch.distributed as dist

__version__ = "0.1"


def noted(name: str, answer=None):
    def call(*arguments):
        path = Path(os.environ["NX8_OUTPUT"], "rank" + os.environ["RANK"], "calls.log")
        with path.open("a") as calls:
            print(name, *arguments, file=calls)
        return answer(*arguments) if answer else None

    return call


class Nobodyccl(dist.ProcessGroup):
    """Collectives on tensors of the device, through a group of gloo that only ever sees copies."""

    def __init__(self, store, rank: int, size: int, timeout) -> None:
        super().__init__(rank, size)
        self._gloo = dist.ProcessGroupGloo(store, rank, size, timeout)

    def getBackendName(self) -> str:  # noqa: N802  torch's name
        return "nobodyccl"

    def allreduce(self, tensors, options=None):
        options = options or sum_of()
        return self._through_the_host(tensors, lambda copies: self._gloo.allreduce(copies, options))

    def broadcast(self, tensors, options):
        return self._through_the_host(tensors, lambda copies: self._gloo.broadcast(copies, options))

    def allgather(self, outputs, inputs, options=None):
        copies = [[tensor.cpu() for tensor in row] for row in outputs]
        self._gloo.allgather(copies, [tensor.cpu() for tensor in inputs]).wait()
        for row, copied in zip(outputs, copies, strict=True):
            back(row, copied)
        return done(outputs)

    def barrier(self, options=None):
        self._gloo.barrier().wait()
        return done([])

    def _through_the_host(self, tensors, collective):
        assert {tensor.device.type for tensor in tensors} == {"nobody"}
        copies = [tensor.cpu() for tensor in tensors]
        collective(copies).wait()
        back(tensors, copies)
        return done(tensors)


def sum_of():
    options = dist.AllreduceOptions()
    options.reduceOp = dist.ReduceOp.SUM
    return options


def back(tensors, copies) -> None:
    for tensor, copy in zip(tensors, copies, strict=True):
        tensor.copy_(copy)


def done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return torch._C._distributed_c10d._create_work_from_future(future)


def namespace() -> types.ModuleType:
    operators = torch.ops.nobody
    module = types.ModuleType("torch.nobody")
    module.is_available = lambda: True
    module.is_initialized = lambda: True
    module._is_in_bad_fork = lambda: False
    module.device_count = operators.num_devices
    module.current_device = operators.device
    module.get_device_name = "Nobody's device {}".format
    module.max_memory_allocated = lambda device=None: operators.most_bytes()  # no max_memory_reserved
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    module.set_device = noted("set_device", operators.set_device)
    module.manual_seed_all = noted("manual_seed_all")
    module.synchronize = noted("synchronize")
    return module


torch.ops.load_library(str(Path(__file__).with_name("libnobody.so")))
torch.utils.rename_privateuse1_backend("nobody")
torch._register_device_module("nobody", namespace())
torch.backends.nobody = types.SimpleNamespace(matmul=types.SimpleNamespace(allow_tf32=True))
dist.Backend.register_backend("nobodyccl", Nobodyccl, devices=["nobody"])
