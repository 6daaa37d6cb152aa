"""Megatron-LM and what grew from it (FlagScale, Megatron-DeepSpeed, GPT-NeoX): the line of an iteration.

    [2026-11-21 10:00:00] iteration 10/ 100 | consumed samples: 440 | elapsed time per iteration (ms): 7058 |

All of them write `name: value` between bars; which names there are tells the variants apart, so none needs a
reader of its own. With a log interval the figures are means over the iterations since the line before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.linear import compiled
from orchestrator.parse.dialects.record import Dialect, Figures, grouped, stated, whole
from orchestrator.parse.dialects.sizes import MARKER as SIZES
from orchestrator.parse.dialects.sizes import read_size
from orchestrator.parse.strict import Misread

if TYPE_CHECKING:
    from orchestrator.parse.dialects.record import Found
    from orchestrator.parse.transport import Line

MIB = 1 << 20
ITERATION = compiled(r"iteration +(\d{1,18}) */ *(\d{1,18})")
REALS = {
    "throughput per GPU (TFLOP/s/GPU)": ("tflops_per_device", 1.0),
    "TFLOPs": ("tflops_per_device", 1.0),
    "samples/sec": ("samples_per_second", 1.0),
    "samples per second": ("samples_per_second", 1.0),
    "tokens per gpu per second (tgs)": ("tokens_per_second_per_device", 1.0),
    "elapsed time per iteration (ms)": ("step_time_s", 1e-3),
    "learning rate": ("learning_rate", 1.0),
    "lm loss": ("loss", 1.0),
    "lm_loss": ("loss", 1.0),
    "loss": ("loss", 1.0),
    "loss scale": ("loss_scale", 1.0),
    "grad norm": ("grad_norm", 1.0),
}
WHOLES = {
    "consumed samples": "consumed_samples",
    "consumed tokens": "consumed_tokens",
    "global batch size": "global_batch_size",
    "actual seqlen": "sequence_length",
    "number of skipped iterations": "skipped",
    "number of nan iterations": "nan",
}
FLOPS_UNITS = {"KFLOPS": 1e-9, "MFLOPS": 1e-6, "GFLOPS": 1e-3, "TFLOPS": 1.0, "PFLOPS": 1e3, "EFLOPS": 1e6}
MEMORY = {
    "allocated": "memory_allocated_bytes",
    "max allocated": "memory_peak_bytes",
    "max reserved": "memory_reserved_bytes",
}
NAMES = {
    "world_size": "world_size",
    "tensor_model_parallel_size": "tensor_parallel_size",
    "model_parallel_size": "tensor_parallel_size",
    "pipeline_model_parallel_size": "pipeline_parallel_size",
    "pipe_parallel_size": "pipeline_parallel_size",
    "context_parallel_size": "context_parallel_size",
    "data_parallel_size": "data_parallel_size",
    "micro_batch_size": "micro_batch_size",
    "train_micro_batch_size_per_gpu": "micro_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "global_batch_size": "global_batch_size",
    "train_batch_size": "global_batch_size",
    "seq_length": "sequence_length",
    "train_iters": "total_steps",
    "num_layers": "num_layers",
    "hidden_size": "hidden_size",
}
#: An iteration line has some twenty; a line of thousands is none and would take its time.
MAX_BARS = 200
#: DeepSpeed prints a table of its own below these programs', and calls the data-parallel size world_size.
IN_DEEPSPEED = {**NAMES, "world_size": "data_parallel_size"}
WORLD = {
    "using world size": "world_size",
    "data-parallel size": "data_parallel_size",
    "data-parallel-size": "data_parallel_size",
    "context-parallel size": "context_parallel_size",
    "model-parallel size": "tensor_parallel_size",
    "tensor-model-parallel size": "tensor_parallel_size",
    "pipeline-model-parallel size": "pipeline_parallel_size",
}


def read(line: Line) -> tuple[Found, ...]:
    text = line.text
    if "elapsed time per iteration" in text:
        return _iteration(line)
    if "using world size:" in text:
        return _world(line)
    if "memory (MB) |" in text:
        return _memory(line)
    if "[after training is done]" in text:
        return (stated(line, "ended", 1),)
    return read_size(line, IN_DEEPSPEED if "[config.py:" in text else NAMES)


def _iteration(line: Line) -> tuple[Found, ...]:
    figures = Figures(line)
    if line.words.count("|") > MAX_BARS:
        raise Misread(f"more than {MAX_BARS} bars")
    for said in line.words.split("|"):
        place = said.find("iteration ")
        match = ITERATION.match(said, place) if place >= 0 else None
        if match:
            figures.put("step", int(match[1]))
            figures.put("total_steps", int(match[2]) or None)
        else:
            key, _, value = said.partition(":")
            _take(figures, key.strip(), value)
    if "step" not in figures or "step_time_s" not in figures:
        raise Misread("no iteration number or no time in it")
    return (figures.made(),)


def _take(figures: Figures, key: str, value: str) -> None:
    if key in REALS:
        name, scale = REALS[key]
        figures.take(name, value, scale=scale)
    elif key in WHOLES:
        figures.take_whole(WHOLES[key], value)
    elif key == "approx flops per GPU":
        _take_flops(figures, value.strip())
    elif key == "MFU":
        figures.take("mfu", value.strip().removesuffix("%"), scale=0.01)


def _take_flops(figures: Figures, text: str) -> None:
    """GPT-NeoX chooses the unit by size: `112.6TFLOPS`."""
    unit = next((unit for unit in FLOPS_UNITS if text.endswith(unit)), None)
    if unit:
        figures.put("tflops_per_device", grouped(text.removesuffix(unit), "flops") * FLOPS_UNITS[unit])


def _world(line: Line) -> tuple[Found, ...]:
    found = []
    for said in line.text[line.text.find("using world size:") :].replace(" and ", ", ").split(", "):
        key, _, value = said.partition(":")
        if key in WORLD:
            found.append(stated(line, WORLD[key], whole(value, key)))
    return tuple(found)


def _memory(line: Line) -> tuple[Found, ...]:
    figures = Figures(line)
    for said in line.text[line.text.find("memory (MB) |") :].split(" | ")[1:]:
        key, _, value = said.partition(":")
        if key.strip() in MEMORY:
            figures.take_bytes(MEMORY[key.strip()], value, unit=MIB)
    return (figures.made(),)


DIALECT = Dialect(
    name="megatron",
    says="iteration lines of Megatron-LM, FlagScale, Megatron-DeepSpeed or GPT-NeoX",
    markers=(
        b"elapsed time per iteration",
        b"using world size:",
        b"memory (MB) |",
        b"[after training is done]",
        SIZES,
    ),
    read=read,
    prints_end=True,
)
