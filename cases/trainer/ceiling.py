"""What the devices of one node, or of several together, can do at most: products of matrices by type, memory
bandwidth, copies from and to the host, all-reduce. Needs torch 2.0 and nothing else; writes no file.

Called by `nx8 doctor --deep` in the vendor's container: `main(request)` starts one process a device and
prints one line of JSON, the request's nonce in it. Ranks keep in step through a TCPStore. A figure is the
median over batches that together fill at least `least_s`, after a warm-up; each rate goes with the seconds
and the number of batches behind it, and is null with its reason where it failed, was too short, or the
result was wrong.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

if TYPE_CHECKING:
    import torch
    from device import Device

#: A single timed batch is no shorter: a clock call and a launch must not count.
BATCH_S = 0.02
WARM_UP = 3
#: Sides of square products, tried from the first on until one takes CALIBRATED_S.
SIDES = (256, 512, 1024, 2048, 4096, 8192, 16384)
CALIBRATED_S = 0.05
COPY_BYTES = 256 << 20
HOST_COPY_BYTES = 16 << 20
REDUCE_BYTES = 64 << 20
HOST_REDUCE_BYTES = 4 << 20
#: Relative to the largest entry of the exact product, by type: rounding of inputs and sums.
TOLERANCE = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 4e-2, "fp16": 1e-2}
STORE_S = 120.0


class Wrong(Exception):
    """The device computed, and not what it should have."""


def main(request: Dict[str, Any], program: str) -> int:
    """Starts the ranks of this node with `program`, the text that runs `rank`; prints what they found."""
    ranks = request["devices"]
    found: List[Dict[str, Any]] = []
    processes = []
    for local in range(ranks):
        heard, told = os.pipe()
        environment = dict(os.environ, NX8_CEILING=json.dumps(dict(request, local_rank=local, told=told)))
        process = subprocess.Popen(
            [sys.executable, "-"],
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            env=environment,
            pass_fds=(told,),
        )
        os.close(told)
        processes.append((process, heard))
    for process, _ in processes:
        assert process.stdin is not None
        process.stdin.write(program.encode("utf-8"))
        process.stdin.close()
    deadline = time.monotonic() + request["limit_s"]
    for local, (process, heard) in enumerate(processes):
        with os.fdopen(heard, "rb") as pipe:
            text = pipe.read()  # a rank ends by itself: see `rank`
        try:
            code: Optional[int] = process.wait(max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        found.append(_heard(local, text, code))
    sys.stdout.write(json.dumps({"nonce": request["nonce"], "ranks": found}, allow_nan=False) + "\n")
    return 0


def _heard(local: int, text: bytes, code: Optional[int]) -> Dict[str, Any]:
    try:
        said: Dict[str, Any] = json.loads(text.decode("utf-8"))
    except ValueError:
        said = {"figures": {}, "error": "the process of this device exited {}".format(code)}
    return dict(said, local_rank=local)


def rank(request: Dict[str, Any]) -> None:
    """One device: everything that is asked for, and at the end one line into the pipe `told`."""
    import faulthandler

    # Whatever hangs, a collective above all, ends here, and with it the container.
    faulthandler.dump_traceback_later(request["limit_s"], exit=True)
    said: Dict[str, Any] = {"figures": {}}
    try:
        said = Ranks(request).all()
    except Exception as error:  # noqa: BLE001 - whatever a stack raises is the reason of no figure
        said["error"] = _words(error)
    with os.fdopen(request["told"], "wb") as pipe:
        pipe.write(json.dumps(said, allow_nan=False).encode("utf-8"))
    faulthandler.cancel_dump_traceback_later()
    # Libraries of collectives hang in their own clean-up when a peer is gone.
    sys.stderr.flush()
    os._exit(0)


class Planned:
    """What device.Device wants of a job."""

    def __init__(self, request: Dict[str, Any]) -> None:
        self.type = request["device_type"]
        self.plugin = request["plugin"]
        self.deepspeed_accelerator = None


class Ranks:
    """This rank among all that are measured together; they begin each measurement at the same time."""

    def __init__(self, request: Dict[str, Any]) -> None:
        import torch
        import torch.distributed as dist
        from device import Device

        self.torch, self.dist = torch, dist
        self.request = request
        self.rank = request["first_rank"] + request["local_rank"]
        self.world = request["world_size"]
        self.device: Device = Device(Planned(request), request["local_rank"])
        self.least_s = float(request["least_s"])
        self.store: Any = dist.TCPStore(
            request["address"],
            request["port"],
            self.world,
            self.rank == 0,
            timeout=timedelta(seconds=STORE_S),
        )
        self.meetings = 0

    def all(self) -> Dict[str, Any]:
        figures: Dict[str, Any] = {}
        for name in self.request["figures"]:
            kind, _, what = name.partition(":")
            measure = {
                "gemm": lambda what=what: self.gemm(what),
                "memory": self.memory,
                "host_to_device": lambda: self.host_copy(to_device=True),
                "device_to_host": lambda: self.host_copy(to_device=False),
                "all_reduce": self.all_reduce,
            }[kind]
            self.meet()
            try:
                figures[name] = measure()  # type: ignore[operator]
            except Exception as error:  # noqa: BLE001 - as above, of this figure alone
                figures[name] = {"value": None, "reason": _words(error)}
        self.leave()
        return {
            "figures": figures,
            "torch": self.torch.__version__,
            "device": self.device.name,
            "rank": self.rank,
        }

    def meet(self) -> None:
        """Until every rank is here; a rank that never comes ends it with an error."""
        self.meetings += 1
        key = "meeting-{}".format(self.meetings)
        if self.store.add(key, 1) == self.world:
            self.store.set(key + "-all", "1")
        self.store.wait([key + "-all"], timedelta(seconds=STORE_S))

    def leave(self) -> None:
        """Rank 0 goes last: it serves the store that the others still talk to."""
        if self.store.add("left", 1) == self.world:
            self.store.set("left-all", "1")
        if self.rank == 0:
            self.store.wait(["left-all"], timedelta(seconds=STORE_S))

    def same(self, name: str, value: int) -> int:
        """Rank 0's value, for all: what is compared has to be of one size."""
        key = "value-" + name
        if self.rank == 0:
            self.store.set(key, str(value))
        self.store.wait([key], timedelta(seconds=STORE_S))
        return int(self.store.get(key))

    # The measurements

    def gemm(self, dtype: str) -> Dict[str, Any]:
        """Square products; the rate counts 2·n³ operations. TFLOPS."""
        torch = self.torch
        self.device.set_tf32(dtype == "tf32")
        if dtype == "tf32" and not self.device.tf32:
            self.device.set_tf32(False)
            raise RuntimeError("this device has no switch for tf32")
        kind = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}[dtype]
        calibrated = 0
        if self.rank == 0:
            calibrated = self.calibrated(lambda side: self.product(side, getattr(torch, kind)))
        side = self.same("side-" + dtype, calibrated)
        a, b, c = self.operands(side, getattr(torch, kind))
        found = self.timed(lambda: torch.mm(a, b, out=c))
        self.checked(a, b, c, dtype)
        return self.figure(found, 2.0 * side**3 / 1e12, "TFLOPS", {"side": side})

    def operands(self, side: int, kind: "torch.dtype") -> Tuple[Any, Any, Any]:
        torch, where = self.torch, self.device.device
        maker = torch.Generator().manual_seed(1 + self.rank)
        a, b = (torch.randn(side, side, generator=maker).to(where).to(kind) for _ in range(2))
        return a, b, torch.empty(side, side, device=where, dtype=kind)

    def product(self, side: int, kind: "torch.dtype") -> Callable[[], Any]:
        a, b, c = self.operands(side, kind)
        return lambda: self.torch.mm(a, b, out=c)

    def calibrated(self, make: Callable[[int], Callable[[], Any]]) -> int:
        """The first side whose product takes long enough that its start does not count."""
        for side in SIDES:
            work = make(side)
            work()
            self.device.synchronize()
            began = time.perf_counter()
            work()
            self.device.synchronize()
            if time.perf_counter() - began >= CALIBRATED_S:
                return side
        return SIDES[-1]

    def checked(self, a: Any, b: Any, c: Any, dtype: str) -> None:
        """A corner of it against the same in float64 on the host."""
        rows, columns = min(4, a.shape[0]), min(64, a.shape[0])
        exact = a[:rows].cpu().double() @ b[:, :columns].cpu().double()
        error = (c[:rows, :columns].cpu().double() - exact).abs().max() / exact.abs().max()
        if not float(error) <= TOLERANCE[dtype]:
            raise Wrong("the product is wrong: off by {:.2g} of its largest entry".format(float(error)))

    def memory(self) -> Dict[str, Any]:
        """A copy within the device's memory; what is read and what is written both count. GB/s."""
        torch, where = self.torch, self.device.device
        size = HOST_COPY_BYTES if self.device.is_host else COPY_BYTES
        source = torch.full((size // 4,), float(self.rank + 1), device=where)
        target = torch.zeros(size // 4, device=where)
        found = self.timed(lambda: target.copy_(source))
        self.copied(target)
        return self.figure(found, 2 * size / 1e9, "GB/s", {"bytes": size})

    def host_copy(self, *, to_device: bool) -> Dict[str, Any]:
        """From or to page-locked memory of the host. GB/s."""
        if self.device.is_host:
            raise RuntimeError("the device's memory is the host's own")
        torch, where = self.torch, self.device.device
        host = torch.full((COPY_BYTES // 4,), float(self.rank + 1))
        page_locked = True
        try:
            host = host.pin_memory()
        except Exception:  # noqa: BLE001 - plug-ins raise anything
            page_locked = False  # a plug-in without page-locked memory copies slower, and says so
        far = torch.full((COPY_BYTES // 4,), float(self.rank + 1), device=where)
        source, target = (host, far) if to_device else (far, host)
        found = self.timed(lambda: target.copy_(source, non_blocking=page_locked))
        self.copied(target)
        details = {"bytes": COPY_BYTES, "page_locked": page_locked}
        return self.figure(found, COPY_BYTES / 1e9, "GB/s", details)

    def copied(self, target: Any) -> None:
        ends = torch_ends(target)
        if ends != (float(self.rank + 1), float(self.rank + 1)):
            raise Wrong("the copy is wrong: it ends with {}".format(ends))

    def all_reduce(self) -> Dict[str, Any]:
        """A sum over all ranks. algbw is bytes ÷ time; busbw, algbw × 2(n−1)/n, is what links carry in each
        direction, and compares between numbers of ranks (as nccl-tests define both). GB/s.
        """
        dist, torch = self.dist, self.torch
        if self.world < 2:
            raise RuntimeError("one rank alone has nobody to reduce with")
        if not dist.is_initialized():
            dist.init_process_group(
                self.request["backend"],
                store=dist.PrefixStore("group", self.store),
                rank=self.rank,
                world_size=self.world,
                timeout=timedelta(seconds=STORE_S),
            )
        size = HOST_REDUCE_BYTES if self.device.is_host else REDUCE_BYTES
        tensor = torch.empty(size // 4, device=self.device.device)

        def reduce_once() -> None:
            tensor.fill_(float(self.rank + 1))
            dist.all_reduce(tensor)

        # The number of batches has to be the same on every rank: rank 0 decides after each.
        found = self.timed(reduce_once, together=True)
        wanted = self.world * (self.world + 1) / 2
        if torch_ends(tensor) != (wanted, wanted):
            raise Wrong("the sum over ranks is wrong: {}, not {}".format(torch_ends(tensor), wanted))
        figure = self.figure(found, size / 1e9, "GB/s", {"bytes": size, "ranks": self.world})
        factor = 2 * (self.world - 1) / self.world
        return dict(figure, algbw=figure["value"], busbw=figure["value"] * factor)

    # Timing

    def timed(self, work: Callable[[], Any], *, together: bool = False) -> List[Tuple[int, float]]:
        """(calls, seconds) of each batch, until the batches fill `least_s`."""
        for _ in range(WARM_UP):
            work()
        self.device.synchronize()
        calls = self._calls(work, together=together)
        batches: List[Tuple[int, float]] = []
        spent = 0.0
        while spent < self.least_s or len(batches) < 3:
            self.device.synchronize()
            began = time.perf_counter()
            for _ in range(calls):
                work()
            self.device.synchronize()
            took = time.perf_counter() - began
            batches.append((calls, took))
            spent = self._agreed(spent + took) if together else spent + took
        return batches

    def _calls(self, work: Callable[[], Any], *, together: bool) -> int:
        """How many calls make a batch of BATCH_S at least."""
        calls = 1
        while True:
            self.device.synchronize()
            began = time.perf_counter()
            for _ in range(calls):
                work()
            self.device.synchronize()
            took = time.perf_counter() - began
            took = self._agreed(took) if together else took
            if took >= BATCH_S or calls >= 1 << 16:
                return calls
            calls *= 2

    def _agreed(self, seconds: float) -> float:
        """Rank 0's clock, on every rank."""
        self.meetings += 1
        return self.same("clock-{}".format(self.meetings), int(seconds * 1e9)) / 1e9

    def figure(
        self, batches: List[Tuple[int, float]], work: float, unit: str, details: Dict[str, Any]
    ) -> Dict[str, Any]:
        """`work` of one call, in `unit` × seconds. Raises RuntimeError for too short a measurement."""
        spent = sum(took for _, took in batches)
        if spent < 0.8 * self.least_s:
            raise RuntimeError("too short: {:.3g} s of {:.3g} s".format(spent, self.least_s))
        rates = [calls * work / took for calls, took in batches]
        return dict(
            details,
            value=statistics.median(rates),
            best=max(rates),
            unit=unit,
            seconds=spent,
            batches=len(batches),
            calls=sum(calls for calls, _ in batches),
            reason=None,
        )


def torch_ends(tensor: Any) -> Tuple[float, float]:
    return float(tensor[0]), float(tensor[-1])


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return "{}: {}".format(type(error).__name__, text) if not isinstance(error, RuntimeError) else text or "?"
