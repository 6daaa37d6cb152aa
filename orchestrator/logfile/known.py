"""What a person knows about a log and says with `--set KEY=VALUE`, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Problem
from orchestrator.metrics.arithmetic import parallelism
from orchestrator.parse.dialects.record import NUMBER
from orchestrator.parse.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Two, as DeepSpeed's own average leaves out (ThroughputTimer, start_step).
DEFAULT_WARMUP_STEPS = 2
#: Keys that are counts of 1 and more.
COUNTS = (
    "sequence_length",
    "world_size",
    "global_batch_size",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "context_parallel_size",
    "data_parallel_size",
    "total_steps",
    "logging_steps",
    "num_layers",
    "hidden_size",
)
#: Keys that are real numbers above 0. `parameters` is nominal (7e9), `num_parameters` counted.
REALS = ("peak_tflops", "parameters", "num_parameters", "multiplier", "mean_sequence_length")
STAGES = ("pretrain", "finetune", "average")
KEYS = (*COUNTS, *REALS, "warmup_steps", "parallelism", "stage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Sizes by name; `warmup_steps` and `stage` are None where nothing was said of them."""

    sizes: Mapping[str, float]
    warmup_steps: int | None
    stage: str | None


def known_of(settings: Iterable[str]) -> Known:
    """`KEY=VALUE …`. Raises ConfigError (E812) with everything that is wrong."""
    sizes: dict[str, float] = {}
    words: dict[str, str] = {}
    problems = []
    for setting in settings:
        key, _, value = (part.strip() for part in setting.partition("="))
        wrong = _take(key, value, sizes=sizes, words=words)
        if wrong:
            problems.append(
                Problem(code="E812", message=f"--set {visible(setting, limit=80)}: {wrong}", help=_help(key))
            )
    if problems:
        raise ConfigError(problems)
    warmup = words.get("warmup_steps")
    return Known(sizes=sizes, warmup_steps=None if warmup is None else int(warmup), stage=words.get("stage"))


def _take(key: str, value: str, *, sizes: dict[str, float], words: dict[str, str]) -> str | None:
    """Puts one setting where it belongs; returns what is wrong with it."""
    if key not in KEYS:
        return "no such key"
    if key in sizes or key in words:
        return "said twice"
    if key == "parallelism":
        return _take_parallelism(value, sizes)
    if key == "stage":
        words[key] = value
        return None if value in STAGES else f"wants one of {', '.join(STAGES)}"
    number = float(value) if NUMBER.fullmatch(value) and len(value) <= 40 else None
    if key == "warmup_steps":
        words[key] = f"{number:.0f}" if number is not None else ""
        return (
            None if number is not None and 0 <= number == int(number) <= 1e15 else "wants a number of steps"
        )
    if number is None or not 0 < number < 1e30 or (key in COUNTS and number != int(number)):
        return "wants a count of 1 or more" if key in COUNTS else "wants a number above 0"
    sizes[key] = int(number) if number == int(number) else number
    return None


def _take_parallelism(value: str, sizes: dict[str, float]) -> str | None:
    try:
        named = parallelism(value)
    except ValueError as wrong:
        return str(wrong)
    twice = sorted(sizes.keys() & named.keys())
    sizes.update(named)
    return f"{twice[0]} said twice" if twice else None


def _help(key: str) -> str | None:
    from difflib import get_close_matches

    if key in KEYS:
        return None
    near = get_close_matches(key, KEYS, n=1)
    return f"did you mean {near[0]}?" if near else f"keys: {', '.join(KEYS)}"
