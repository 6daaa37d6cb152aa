"""The sizes of a run, from what a person said and what its log says, and whether all of it agrees. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.metrics.arithmetic import Check, check_close, check_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.logfile.known import Known
    from orchestrator.metrics import Metric
    from orchestrator.metrics.logged import Logged
    from orchestrator.metrics.series import Series
    from orchestrator.parse.dialects import Heard, Stated, StepLine

#: Sizes that lines of steps carry, beside those that a program states when it starts.
CARRIED = ("total_steps", "global_batch_size", "sequence_length")
#: Sizes that a log may state. Others (`peak_tflops`) are quoted, never used: the peak is the reader's choice.
USED = (
    "world_size",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "context_parallel_size",
    "data_parallel_size",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "global_batch_size",
    "sequence_length",
    "mean_sequence_length",
    "total_steps",
    "num_layers",
    "hidden_size",
)
#: How far two figures of one log may differ: rounding of the printed digits, and spread over a run.
ROUNDING = 0.002
SPREAD = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """`values` by name, `origins` who said them ("--set", "line 12"), `checks` where two said them."""

    values: Mapping[str, float]
    origins: Mapping[str, str]
    checks: tuple[Check, ...]


def of_training(heard: Sequence[Heard], known: Known) -> tuple[Heard, ...]:
    """Without the bars of an evaluation, which have another total than the one that a person said."""
    total = known.sizes.get("total_steps")
    bars = {one.total_steps for said in heard for one in said.steps if one.elapsed_s is not None}
    if total not in bars:
        return tuple(heard)
    return tuple(
        replace(
            said, steps=tuple(one for one in said.steps if one.elapsed_s is None or one.total_steps == total)
        )
        for said in heard
    )


def stated_of(heard: Sequence[Heard], stage: str | None) -> list[Stated]:
    """What the log states, by line; of figures that belong to a stage only those of `stage`."""
    found = []
    for one in heard:
        current = None
        for said in one.stated:
            if said.name == "stage":
                current = str(said.value)
            elif said.name == "ended" or current is None or current == stage:
                found.append(said)
    return sorted(found, key=lambda said: said.line)


def stages_of(heard: Sequence[Heard]) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(str(said.value) for one in heard for said in one.stated if said.name == "stage")
    )


def sizes_of(known: Known, heard: Sequence[Heard], stated: Sequence[Stated]) -> Sizes:
    """What a person said stands, even where the log says something else: then a check does not hold."""
    said: dict[str, dict[float, str]] = defaultdict(dict)
    for one in stated:
        if one.name in USED and not isinstance(one.value, str):
            said[one.name].setdefault(one.value, f"line {one.line}")
    steps = [step for one in heard for step in one.steps]
    for name in CARRIED:
        for value, line in _carried(steps, name).items():
            said[name].setdefault(value, f"line {line}")
    values: dict[str, float] = dict(known.sizes)
    origins = dict.fromkeys(known.sizes, "--set")
    checks = []
    for name, everything in said.items():
        found = {value: origin for value, origin in everything.items() if value > 0}
        for value in everything.keys() - found.keys():
            detail = f"{name} is {value:g} ({everything[value]}), which no run has"
            checks.append(Check(name=name, held=False, detail=detail))
        if not found:
            continue
        by_value = {values[name]: "--set"} | found if name in values else found
        value, origin = next(iter(by_value.items()))
        values[name], origins[name] = value, origins.get(name, origin)
        if len(by_value) > 1:
            detail = " but ".join(f"{value:g} ({origin})" for value, origin in by_value.items())
            bars = name == "total_steps" and any(step.elapsed_s is not None for step in steps)
            help_ = ": --set total_steps=N says which bar is that of training" if bars else ""
            checks.append(Check(name=name, held=False, detail=f"{name} is {detail}{help_}"))
        elif name in known.sizes:
            checks.append(Check(name=name, held=True, detail=f"{name} is {value:g} in the log as well"))
    return Sizes(values=values, origins=origins, checks=(*checks, *check_sizes(values)))


def _carried(steps: Sequence[StepLine], name: str) -> dict[float, int]:
    """value → first line that carries it. A batch that grows is no contradiction: the last one counts."""
    found: dict[float, int] = {}
    for step in steps:
        value = getattr(step, name)
        if value is not None:
            found.setdefault(value, step.line)
    if len(found) > 1 and name == "global_batch_size" and list(found) == sorted(found):
        last = max(found)
        return {last: found[last]}
    return found


def check_lines(log: Logged) -> tuple[Check, ...]:
    """The figures of single lines against each other and against the sizes."""
    found = (_repeated(log), _samples_done(log), _samples_per_second(log), _tokens_per_second(log))
    return tuple(check for check in found if check is not None)


def check_closing(log: Logged, speed: Metric) -> tuple[Check, ...]:
    """The figures a log closes with, against each other and against what its lines give."""
    closing, checks = log.closing, []
    own, system = closing.get("tokens_per_second_per_device"), closing.get("system_tokens_per_second")
    if own and system and "world_size" in log.sizes:
        what = "System tokens per second ÷ world_size, Tokens/p/s"
        checks.append(
            check_close(
                "closing_world_size",
                left=system / log.sizes["world_size"],
                right=own,
                tolerance=ROUNDING,
                what=what,
            )
        )
    if own and speed.value is not None:
        what = "token/p/s of the lines, Tokens/p/s at the end"
        checks.append(check_close("closing_speed", left=speed.value, right=own, tolerance=SPREAD, what=what))
    for name, value in closing.items():
        if value < 0:
            checks.append(
                Check(name="closing_positive", held=False, detail=f"{name} is {value:g}, which no run has")
            )
    mfu = closing.get("mfu")
    if own and mfu and {"multiplier", "parameters", "peak_tflops"} <= log.sizes.keys():
        sizes = log.sizes
        follows = own * sizes["multiplier"] * sizes["parameters"] / (sizes["peak_tflops"] * 1e12)
        what = "MFU that follows from Tokens/p/s, MFU at the end"
        checks.append(check_close("closing_mfu", left=follows, right=mfu, tolerance=ROUNDING, what=what))
    return tuple(checks)


def check_possible(mfu: Metric) -> tuple[Check, ...]:
    if mfu.value is None:
        return ()
    return (Check(name="mfu_possible", held=mfu.value <= 1, detail=f"MFU {mfu.value:.2%} of the peak"),)


def _repeated(log: Logged) -> Check | None:
    for field in (
        "step_time_s",
        "loss",
        "samples_per_second",
        "running_samples_per_second",
        "tokens_per_second_per_device",
    ):
        repeats = log.series(field).repeats
        if repeats:
            step, earlier, later = repeats[0]
            detail = (
                f"step {step} is reported on line {earlier} and again on line {later}: "
                "a restart, or two logs in one file"
            )
            return Check(name="steps_once", held=False, detail=detail)
    return None


def _samples_done(log: Logged) -> Check | None:
    """Consumed samples grow by the global batch each step."""
    done, batch = log.series("consumed_samples"), log.series("global_batch_size")
    size = batch.points[0].value if batch.points else log.sizes.get("global_batch_size")
    if size is None or len(done.points) < 2 or (batch.points and not _constant(batch)):
        return None
    for before, after in zip(done.points, done.points[1:], strict=False):
        if before.step is None or after.step is None:
            return None
        grown, due = after.value - before.value, (after.step - before.step) * size
        if grown != due:
            detail = (
                f"consumed samples grow by {grown:g} from step {before.step} to {after.step} "
                f"(line {after.line}), not by GBS {size:g} × {after.step - before.step} = {due:g}"
            )
            return Check(name="consumed_samples", held=False, detail=detail)
    return Check(name="consumed_samples", held=True, detail=f"consumed samples grow by GBS {size:g} a step")


def _constant(found: Series) -> bool:
    return len({point.value for point in found.points}) == 1


def _samples_per_second(log: Logged) -> Check | None:
    """samples/s × step time = global batch, where one line has both."""
    size = log.sizes.get("global_batch_size")
    pairs = _pairs(log, "samples_per_second", "step_time_s")
    if size is None or not pairs or not _constant_batch(log):
        return None
    what = "samples/s × step time, global batch size"
    return _worst("samples_per_second", [(rate * time, size) for rate, time in pairs], what)


def _tokens_per_second(log: Logged) -> Check | None:
    """tokens/s per device × devices × step time = global batch × sequence length."""
    names = ("global_batch_size", "sequence_length", "world_size")
    pairs = _pairs(log, "tokens_per_second_per_device", "step_time_s")
    if not pairs or any(name not in log.sizes for name in names) or not _constant_batch(log):
        return None
    batch, length, world = (log.sizes[name] for name in names)
    both = [(rate * world * time, batch * length) for rate, time in pairs]
    return _worst("tokens_per_second", both, "tokens/s × devices × step time, tokens of a step")


def _constant_batch(log: Logged) -> bool:
    points = log.series("global_batch_size").points
    return len({point.value for point in points}) <= 1


def _pairs(log: Logged, left: str, right: str) -> list[tuple[float, float]]:
    by_step = {point.step: point.value for point in log.series(right).points}
    return [
        (point.value, by_step[point.step])
        for point in log.series(left).points
        if point.step is not None and point.step in by_step
    ]


def _worst(name: str, both: list[tuple[float, float]], what: str) -> Check:
    left, right = max(both, key=lambda pair: abs(pair[0] - pair[1]))
    return check_close(name, left=left, right=right, tolerance=ROUNDING, what=what)
