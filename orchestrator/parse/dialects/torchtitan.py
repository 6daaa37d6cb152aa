"""torchtitan: the line of `MetricsProcessor.log`, with or without colours.

    step: 10  loss:  7.1234  grad_norm:  1.2345  memory: 46.10GiB(58.20%)  tps: 7,151  tflops: 300.34  …

`tps` is tokens per second and device; older versions call it `wps`. Memory is the reserved peak, in GiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.linear import compiled
from orchestrator.parse.dialects.record import Dialect, Figures, grouped, stated
from orchestrator.parse.strict import Misread

if TYPE_CHECKING:
    from orchestrator.parse.dialects.record import Found
    from orchestrator.parse.transport import Line

GIB = 1 << 30
BATCH = (
    ("global batch size ", "global_batch_size"),
    ("gradient accumulation steps ", "gradient_accumulation_steps"),
    ("local batch size ", "micro_batch_size"),
    ("sequence length ", "sequence_length"),
    ("maximum context length ", "sequence_length"),
    ("total steps ", "total_steps"),
)
COUNT = compiled(r"\d{1,18}")


def read(line: Line) -> tuple[Found, ...]:
    text = line.text
    if "tps: " in text or "wps: " in text:
        return _metrics(line)
    if "total steps " in text:
        return _sizes(line)
    return (stated(line, "ended", 1),) if "Training completed" in text else ()


def _metrics(line: Line) -> tuple[Found, ...]:
    place = line.text.find("step:")
    if place < 0 or line.text[:place].rstrip().endswith("validate"):
        return ()
    words = line.text[place:].split()
    figures = Figures(line)
    for key, value in zip(words[::2], words[1::2], strict=False):
        _take(figures, key, value)
    if "step" not in figures or "tokens_per_second_per_device" not in figures:
        raise Misread("no step or no tps in it")
    return (figures.made(),)


def _take(figures: Figures, key: str, value: str) -> None:
    if key == "step:":
        figures.take_whole("step", value)
    elif key in ("loss:", "grad_norm:"):
        figures.take(key[:-1], value)
    elif key == "memory:":
        amount, unit, _ = value.partition("GiB")
        if unit:
            figures.take_bytes("memory_reserved_bytes", amount, unit=GIB)
    elif key in ("tps:", "wps:"):
        figures.put("tokens_per_second_per_device", grouped(value, key))
    elif key == "tflops:":
        figures.put("tflops_per_device", grouped(value.replace(",", ""), key))
    elif key == "mfu:" and value != "N/A":
        figures.take("mfu", value.removesuffix("%"), scale=0.01)


def _sizes(line: Line) -> tuple[Found, ...]:
    """Of `Trainer is initialized with …` or, before, `Training starts at step 1, with …`."""
    found = []
    for words, name in BATCH:
        place = line.text.find(words)
        match = COUNT.match(line.text, place + len(words)) if place >= 0 else None
        if match:
            found.append(stated(line, name, int(match[0])))
    return tuple(found)


DIALECT = Dialect(
    name="torchtitan",
    says="torchtitan's metric lines (step: … tps: …)",
    markers=(b"ps: ", b"total steps ", b"Training completed"),
    read=read,
    prints_end=True,
)
