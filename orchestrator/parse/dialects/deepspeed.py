"""DeepSpeed: its throughput timer in three spellings, its step and timer lines, and the pipeline engine's.

    0/17, SamplesPerSec=4.98                                                            0.1 … 0.6
    0/17, SamplesPerSec=4.98, MemAllocated=1.5GB, MaxMemAllocated=2.0GB                 0.6
    0/17, RunningAvgSamplesPerSec=4.98, CurrSamplesPerSec=5.01, …                       0.7
    epoch=0/micro_step=50/global_step=50, RunningAvgSamplesPerSec=…, CurrSamplesPerSec=…, …     since 0.7

The first number pair is epoch and calls of forward, so a step only where nothing is accumulated. A "GB" there
is 1024³ bytes. The timer runs from forward to the end of the step: reading data is outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.linear import compiled
from orchestrator.parse.dialects.record import Dialect, Figures
from orchestrator.parse.dialects.sizes import MARKER as SIZES
from orchestrator.parse.dialects.sizes import read_size
from orchestrator.parse.strict import Misread

if TYPE_CHECKING:
    from orchestrator.parse.dialects.record import Found
    from orchestrator.parse.transport import Line

GIB = 1 << 30
COUNTED = compiled(r"epoch=(\d{1,18})/micro_step=(\d{1,18})/global_step=(\d{1,18})")
PAIR = compiled(r"(\d{1,18})/(\d{1,18})")
STEP = compiled(r"step=(\d{1,18}), skipped=(\d{1,18}), lr=\[")
SPEEDS = {
    "SamplesPerSec": "running_samples_per_second",
    "RunningAvgSamplesPerSec": "running_samples_per_second",
    "CurrSamplesPerSec": "samples_per_second",
}
MEMORY = {"MemAllocated": "memory_allocated_bytes", "MaxMemAllocated": "memory_peak_bytes"}
PHASES = {
    "fwd": "forward_s",
    "forward": "forward_s",
    "bwd": "backward_s",
    "backward": "backward_s",
    "step": "optimizer_s",
}
#: In its own table `world_size` is the data-parallel one, and long names have no dots at all.
NAMES = {
    "train_batch_size": "global_batch_size",
    "train_micro_batch_size_per_gpu": "micro_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
}


def read(line: Line) -> tuple[Found, ...]:
    text = line.text
    if "SamplesPerSec=" in text:
        return _throughput(line)
    if "iter time (s):" in text:
        return _pipeline(line)
    if ", skipped=" in text:
        return _progress(line)
    if "time (ms) |" in text:
        return _phases(line)
    return read_size(line, NAMES)


def _throughput(line: Line) -> tuple[Found, ...]:
    said = line.text.split(", ")
    # A time stamp before the message may hold ", " of its own, and other programs' words as well.
    first = next((place for place, one in enumerate(said) if place and "SamplesPerSec=" in one), len(said))
    head, pairs = said[first - 1], said[first:]
    figures = Figures(line)
    begin = max(head.rfind(" "), head.rfind("]")) + 1
    counted, pair = COUNTED.fullmatch(head, begin), PAIR.fullmatch(head, begin)
    if counted:
        figures.put("epoch", float(counted[1]))
        figures.put("micro_step", int(counted[2]))
        figures.put("step", int(counted[3]))
    elif pair:
        figures.put("epoch", float(pair[1]))
        figures.put("micro_step", int(pair[2]))
    elif pairs:
        raise Misread("no step before its samples per second")
    else:
        return ()
    for pair_said in pairs:
        key, _, value = pair_said.partition("=")
        if key in SPEEDS:
            figures.take(SPEEDS[key], value)
        elif key in MEMORY:
            figures.take_bytes(MEMORY[key], _without(value, "GB", key), unit=GIB)
    return (figures.made(),)


def _progress(line: Line) -> tuple[Found, ...]:
    place = line.text.find("step=")
    match = STEP.match(line.text, place) if place >= 0 else None
    if match is None:
        return ()
    figures = Figures(line)
    figures.put("step", int(match[1]))
    figures.put("skipped_total", int(match[2]))
    rates, closed, _ = line.text[match.end() :].partition("]")
    if not closed:
        raise Misread("its list of learning rates has no end")
    if rates.strip():
        figures.take("learning_rate", rates.split(",")[0])
    return (figures.made(),)


def _pipeline(line: Line) -> tuple[Found, ...]:
    place = line.text.find("steps: ")
    if place < 0:
        return ()
    figures = Figures(line)
    said = line.text[place:].replace("iter time (s)", "iter_time_s").split()
    for key, value in zip(said[::2], said[1::2], strict=False):
        if key == "steps:":
            figures.take_whole("step", value)
        elif key == "loss:":
            figures.take("loss", value)
        elif key == "iter_time_s:":
            figures.take("step_time_s", value)
        elif key == "samples/sec:":
            figures.take("samples_per_second", value)
    if "step" not in figures or "step_time_s" not in figures:
        raise Misread("no steps or no iter time in it")
    return (figures.made(),)


def _phases(line: Line) -> tuple[Found, ...]:
    """The timers of one step. Those of micro-steps and of parts of a phase stay out."""
    figures = Figures(line)
    place = line.text.find("time (ms) |") + len("time (ms) |")
    for said in line.text[place:].split(" | "):
        name, _, value = said.partition(":")
        field = PHASES.get(name.strip())
        if field:
            figures.take(field, value, scale=1e-3)
    return (figures.made(),) if any(field in figures for field in PHASES.values()) else ()


def _without(text: str, unit: str, key: str) -> str:
    bare = text.strip()
    if not bare.endswith(unit):
        raise Misread(f"{key} is {bare[:40]!r}, not an amount in {unit}")
    return bare.removesuffix(unit)


DIALECT = Dialect(
    name="deepspeed",
    says="DeepSpeed's throughput timer (SamplesPerSec=) and step lines",
    markers=(b"SamplesPerSec=", b", skipped=", b"time (ms) |", b"iter time (s):", SIZES),
    read=read,
    yields_to=("megatron", "huggingface", "events"),
)
