"""A log's lines and sizes → metrics over a declared window, each with a value or a reason. Pure.

Nothing here is proven: the figures are those of a log that anybody could have written.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from orchestrator.metrics.series import Point, Series, series
from orchestrator.metrics.spread import mean, percentile, spread
from orchestrator.metrics.summary import Computed, Details, Direction, Metric, NoValueError, measured
from orchestrator.parse.dialects import StepLine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


LOSS_STEPS = 5
#: A clock of whole seconds decides a speed only over a window where a second is below this share.
CLOCK_SHARE = 0.005

SPECS: dict[str, tuple[str, Direction, str]] = {
    "tokens_per_second_per_device": (
        "tokens/s",
        "higher",
        "median over the window of global_batch_size × sequence_length / step_time_s / world_size",
    ),
    "step_time_p50_s": ("s", "lower", "median over the window of the time of one step, the slowest rank's"),
    "loss": ("nats/token", "lower", "mean of the last 5 losses of the window"),
    "mfu_published": (
        "fraction",
        "higher",
        "tokens_per_second_per_device × multiplier × parameters / peak FLOP/s, parameters nominal",
    ),
    "mfu_palm": (
        "fraction",
        "higher",
        "tokens_per_second_per_device × (6·N + 12·L·d·s) / peak FLOP/s, N = num_parameters; "
        "4·N where the language model does not learn",
    ),
    "tokens_per_tflops": ("tokens/s/TFLOPS", "higher", "tokens_per_second_per_device / peak TFLOPS"),
    "grad_norm_last": ("1", "none", "gradient norm at the last line that has one"),
    "memory_framework_peak_bytes": ("bytes", "lower", "largest allocated peak that the framework printed"),
    "memory_framework_reserved_bytes": ("bytes", "lower", "largest reserved peak that the framework printed"),
    "skipped_iterations": ("steps", "lower", "steps without an update, over the whole log"),
    "nan_iterations": ("steps", "lower", "steps with a NaN, or lines with a loss that is not finite"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What is computed with: lines by dialect, the leading one first; sizes and closing figures by name.

    `prints_end`: the leading dialect's programs say when training is over, as `ended` says they did.
    """

    heard: tuple[tuple[StepLine, ...], ...]
    sizes: Mapping[str, float]
    closing: Mapping[str, float]
    ended: bool
    warmup_steps: int
    stage: str | None = None
    prints_end: bool = False
    _made: dict[str, Series] = field(default_factory=dict, init=False, repr=False, compare=False)

    def series(self, name: str) -> Series:
        """The figure `name` as training goes on, made once."""
        if name not in self._made:
            gas, every = self.sizes.get("gradient_accumulation_steps"), self.sizes.get("logging_steps")
            self._made[name] = series(
                self.heard,
                name,
                accumulation=None if gas is None else int(gas),
                logging_steps=None if every is None else int(every),
            )
        return self._made[name]

    def last_step(self) -> tuple[int | None, int]:
        """The last step any line names, and the distance between lines."""
        # A bar is drawn now and then: what says that training ended knows better.
        fields = (*SPEEDS, "running_samples_per_second", "loss", *(() if self.ended else ("elapsed_s",)))
        found = [self.series(field) for field in fields]
        # A single line says nothing of the distance to the next.
        steps = [
            (one.last_step, one.interval if len(one.points) > 1 else 1)
            for one in found
            if one.last_step is not None
        ]
        return max(steps, default=(None, 1))


SPEEDS = ("step_time_s", "samples_per_second", "tokens_per_second_per_device")


def summarize_log(log: Logged) -> tuple[Metric, ...]:
    """Every metric of SPECS. Never raises on what a log says."""
    unfinished = why_unfinished(log)

    def metric(name: str, compute: Callable[[], Computed]) -> Metric:
        def reached() -> Computed:
            if unfinished:
                raise NoValueError(unfinished)
            return compute()

        return measured(name, reached, specs=SPECS)

    speed = metric("tokens_per_second_per_device", lambda: _speed(log))
    return (
        speed,
        metric("step_time_p50_s", lambda: _step_time(log)),
        metric("loss", lambda: _loss(log)),
        metric("mfu_published", lambda: _mfu_published(log, speed)),
        metric("mfu_palm", lambda: _mfu_palm(log, speed)),
        metric("tokens_per_tflops", lambda: _tokens_per_tflops(log, speed)),
        metric("grad_norm_last", lambda: _last(log, "grad_norm")),
        metric("memory_framework_peak_bytes", lambda: _largest(log, "memory_peak_bytes")),
        metric("memory_framework_reserved_bytes", lambda: _largest(log, "memory_reserved_bytes")),
        measured("skipped_iterations", lambda: _skipped(log), specs=SPECS),
        measured("nan_iterations", lambda: _nan(log), specs=SPECS),
    )


def why_unfinished(log: Logged) -> str | None:
    """Why the log does not show that training reached its last step; None when it does."""
    last, interval = log.last_step()
    total = log.sizes.get("total_steps")
    if total is None and not log.ended:
        return "the log does not say how many steps were planned, nor that it ended: --set total_steps=N"
    if total is None or (last is None and log.ended):
        return None
    if last is None:
        return "no line names its step: --set gradient_accumulation_steps=N where lines count micro-steps"
    # With one line in ten steps, the last of 554 is due at 550: what follows it, an end line has to say.
    exact = log.prints_end and not log.ended
    due = int(total) if exact else int(total) // interval * interval or int(total)
    if last < due:
        return f"the log ends at step {last} of {int(total)}: a run that did not reach its end has no figure"
    return None


def window(found: Series, log: Logged) -> tuple[Point, ...]:
    """Raises NoValueError where nothing is left beyond the warm-up, or a line does not say its step."""
    if any(point.step is None for point in found.points):
        raise NoValueError(
            "its lines count micro-steps or nothing: --set gradient_accumulation_steps=N, or logging_steps=N"
        )
    if found.hole is not None:
        before, after = found.hole
        raise NoValueError(f"no line speaks of the steps between {before} and {after}")
    points = found.after(log.warmup_steps)
    if not points:
        raise NoValueError(f"no line is beyond the {log.warmup_steps} warm-up steps")
    return points


def _need(log: Logged, *names: str) -> list[float]:
    """Sizes that a formula needs. Raises NoValueError naming every one that is not known."""
    missing = [name for name in names if name not in log.sizes]
    if missing:
        settings = " ".join(f"--set {name}=N" for name in missing)
        raise NoValueError(f"the log does not say {' or '.join(missing)}: {settings}")
    return [log.sizes[name] for name in names]


def _tokens_of_a_sample(log: Logged) -> float:
    """The mean real length where samples vary and it is known, else the length they are cut or padded to."""
    if "mean_sequence_length" in log.sizes:
        return log.sizes["mean_sequence_length"]
    return _need(log, "sequence_length")[0]


def _speed(log: Logged) -> Computed:
    """The best source there is, in this order: times of steps, samples/s or tokens/s of lines, a clock's
    readings, a running average, and last the whole run's.
    """
    _refuse_skipped(log)
    reasons = []
    for source in (_by_time, _by_samples, _by_tokens, _by_clock, _by_running, _by_whole_run):
        try:
            rates, details = source(log)
        except NoValueError as reason:
            if str(reason):
                reasons.append(str(reason))
            continue
        if any(rate <= 0 for rate in rates):
            raise NoValueError("a time or speed is not positive")
        found = spread(rates)
        return found.median, {**asdict(found), **details, **_padded(log, found.median)}
    raise NoValueError(reasons[0] if reasons else "no line says how long a step took, or how fast it was")


def _refuse_skipped(log: Logged) -> None:
    """A median over steps most of which changed no parameter is not training's. Raises NoValueError."""
    counted = log.series("skipped").points
    skipped, steps = sum(point.value for point in counted), sum(point.covers for point in counted)
    totals = log.series("skipped_total")
    if totals.points and totals.last_step:
        skipped, steps = totals.points[-1].value, totals.last_step
    if steps and skipped > steps / 2:
        raise NoValueError(f"{skipped:g} of {steps} steps were skipped: no parameter changed in them")


def _padded(log: Logged, speed: float) -> Details:
    sizes = log.sizes
    if "mean_sequence_length" not in sizes:
        return {"tokens": "padding counts as tokens"}
    stretch = sizes.get("sequence_length", 0) / sizes["mean_sequence_length"]
    return {"tokens": "mean real sequence length", "padded": speed * stretch if stretch else None}


def _points(log: Logged, field: str) -> tuple[Point, ...]:
    """The window of a field; NoValueError without words where the log does not have it."""
    found = log.series(field)
    if not found.points:
        raise NoValueError("")
    return window(found, log)


def _extent(points: Sequence[Point], basis: str) -> Details:
    return {"basis": basis, "first_step": points[0].step, "last_step": points[-1].step}


def _batch_at(log: Logged) -> Callable[[Point], float]:
    """The global batch of a step: its own where lines say it, as in a ramp-up."""
    by_step = {point.step: point.value for point in log.series("global_batch_size").points}
    known = log.sizes.get("global_batch_size")
    if known is None and not by_step:
        _need(log, "global_batch_size")

    def batch(point: Point) -> float:
        value = by_step.get(point.step, known)
        if value is None:
            raise NoValueError(f"the global batch of step {point.step} is not known")
        return value

    return batch


def _by_time(log: Logged) -> tuple[list[float], Details]:
    points = _points(log, "step_time_s")
    (world,), length, batch = _need(log, "world_size"), _tokens_of_a_sample(log), _batch_at(log)
    if any(point.value <= 0 for point in points):
        raise NoValueError("a step time is not positive")
    rates = [batch(point) * length / point.value / world for point in points]
    return rates, _extent(points, "step times")


def _by_samples(log: Logged) -> tuple[list[float], Details]:
    if log.sizes.get("gradient_accumulation_steps", 1) != 1 and _of_calls(log):
        # One call of forward: with accumulation most have no optimizer's share, or every printed one has.
        raise NoValueError("")
    points = _points(log, "samples_per_second")
    (world,), length = _need(log, "world_size"), _tokens_of_a_sample(log)
    return [point.value * length / world for point in points], _extent(points, "samples/s of lines")


def _of_calls(log: Logged) -> bool:
    return any(
        one.step is None and one.micro_step is not None and one.samples_per_second is not None
        for steps in log.heard
        for one in steps
    )


def _by_tokens(log: Logged) -> tuple[list[float], Details]:
    points = _points(log, "tokens_per_second_per_device")
    return [point.value for point in points], _extent(points, "tokens/s of lines")


def _by_clock(log: Logged) -> tuple[list[float], Details]:
    field = next((one for one in ("elapsed_s", "clock_s") if log.series(one).points), None)
    if field is None:
        raise NoValueError("")
    readings = _readings(log, field)
    samples, seconds = readings[-1][1] - readings[0][1], readings[-1][0] - readings[0][0]
    if seconds <= 0 or samples <= 0:
        raise NoValueError("the log's clock does not move on")
    if field == "elapsed_s" and 1 / seconds > CLOCK_SHARE:
        raise NoValueError(f"the bar's clock has whole seconds, too few in a window of {seconds:g} s")
    (world,), length = _need(log, "world_size"), _tokens_of_a_sample(log)
    details: Details = {"basis": "clock over the whole window", "window_s": seconds, "samples": samples}
    return [samples * length / seconds / world], details


def _readings(log: Logged, field: str) -> list[tuple[float, float]]:
    """(clock, samples done) beyond the warm-up, ascending. Raises NoValueError with fewer than two."""
    found: dict[float, float] = {}
    for one in (one for steps in log.heard for one in steps if getattr(one, field) is not None):
        done = one.consumed_samples
        if done is None and one.step is not None:
            done = one.step * int(_need(log, "global_batch_size")[0])
        if done is not None:
            found.setdefault(done, getattr(one, field))
    if field == "elapsed_s":
        # A resumed run's bar is drawn at 0 and jumps to where training goes on.
        found.pop(0, None)
    begin = log.warmup_steps * _need(log, "global_batch_size")[0] if log.warmup_steps else 0
    readings = sorted((clock, done) for done, clock in found.items() if done >= begin)
    if len(readings) < 2:
        raise NoValueError("the log's clock has fewer than two readings beyond the warm-up")
    return readings


def _by_running(log: Logged) -> tuple[list[float], Details]:
    """DeepSpeed's average since its third step; the last one is that of the whole run."""
    found = log.series("running_samples_per_second")
    if not found.points:
        raise NoValueError("")
    if log.warmup_steps > 2:
        raise NoValueError("the log has only a running average since step 3: --set warmup_steps=2")
    (world,), length = _need(log, "world_size"), _tokens_of_a_sample(log)
    last = found.points[-1]
    return [last.value * length / world], {"basis": "running average since step 3", "last_step": last.step}


def _by_whole_run(log: Logged) -> tuple[list[float], Details]:
    rate = log.closing.get("train_samples_per_second")
    if rate is None:
        raise NoValueError("")
    begun = _resumed_at(log)
    if begun is not None:
        raise NoValueError(
            f"the log starts at epoch {begun:g}: its average counts steps that were not run here"
        )
    if log.warmup_steps:
        raise NoValueError(
            "the log has only an average of the whole run, warm-up included: --set warmup_steps=0 takes it"
        )
    (world,), length = _need(log, "world_size"), _tokens_of_a_sample(log)
    return [rate * length / world], {"basis": "average of the whole run, warm-up included"}


def _resumed_at(log: Logged) -> float | None:
    """The first epoch that is printed, where it is further from 0 than lines are from each other."""
    epochs = [one.epoch for steps in log.heard for one in steps if one.epoch is not None]
    if len(epochs) < 2:
        return None
    distance = max(later - earlier for earlier, later in itertools.pairwise(epochs))
    # Epochs are rounded to two decimals.
    return epochs[0] if epochs[0] > 2 * distance + 0.02 else None


def _step_time(log: Logged) -> Computed:
    points = _points_or_reason(log, "step_time_s", "no line says how long a step took")
    return percentile([point.value for point in points], 0.5), {"n": len(points), **_extent(points, "lines")}


def _points_or_reason(log: Logged, field: str, reason: str) -> tuple[Point, ...]:
    found = log.series(field)
    if not found.points:
        raise NoValueError(reason)
    return window(found, log)


def _loss(log: Logged) -> Computed:
    bad = _num_not_finite(log)
    if bad:
        raise NoValueError(f"{bad} steps have no finite loss")
    found = log.series("loss")
    if not found.points:
        raise NoValueError("no line says a loss")
    points = found.after(log.warmup_steps) or found.points
    losses = [point.value for point in points]
    details: Details = {"n": min(LOSS_STEPS, len(losses)), "last": losses[-1], "last_step": points[-1].step}
    return mean(losses[-LOSS_STEPS:]), details


def _mfu_published(log: Logged, speed: Metric) -> Computed:
    multiplier, parameters, peak = _need(log, "multiplier", "parameters", "peak_tflops")
    value = _known(speed) * multiplier * parameters / (peak * 1e12)
    return value, {"multiplier": multiplier, "parameters": parameters, "peak_tflops": peak}


def _mfu_palm(log: Logged, speed: Metric) -> Computed:
    """PaLM (arXiv:2204.02311), appendix B: attention included, not halved for its causal mask."""
    parameters, layers, hidden, peak = _need(
        log, "num_parameters", "num_layers", "hidden_size", "peak_tflops"
    )
    # Behind a projector that learns alone the gradient still passes through the model (metrics/__init__.py).
    multiplier = 4 if log.stage == "pretrain" or log.sizes.get("multiplier") == 2 else 6
    attention = 12 * layers * hidden * _tokens_of_a_sample(log)
    value = _known(speed) * (multiplier * parameters + attention) / (peak * 1e12)
    return value, {
        "num_parameters": parameters,
        "multiplier": multiplier,
        "attention_flops_per_token": attention,
        "peak_tflops": peak,
    }


def _tokens_per_tflops(log: Logged, speed: Metric) -> Computed:
    (peak,) = _need(log, "peak_tflops")
    return _known(speed) / peak, {"peak_tflops": peak}


def _known(speed: Metric) -> float:
    if speed.value is None:
        raise NoValueError(speed.reason or "no speed")
    return speed.value


def _last(log: Logged, field: str) -> Computed:
    points = log.series(field).points
    if not points:
        raise NoValueError("no line says it")
    return points[-1].value, {"step": points[-1].step}


def _largest(log: Logged, field: str) -> Computed:
    values = [value for steps in log.heard for one in steps if (value := getattr(one, field)) is not None]
    if not values:
        raise NoValueError("no line says it")
    return max(values), {"lines": len(values)}


def _skipped(log: Logged) -> Computed:
    totals = [one.skipped_total for steps in log.heard for one in steps if one.skipped_total is not None]
    counts = [one.skipped for steps in log.heard for one in steps if one.skipped is not None]
    if not totals and not counts:
        raise NoValueError("no line counts them")
    return (max(totals) if totals else sum(counts)), {"lines": len(totals or counts)}


def _nan(log: Logged) -> Computed:
    return _num_not_finite(log), {}


def _num_not_finite(log: Logged) -> int:
    """Steps that a program counted as NaN; where it counts none, the lines with a loss that is not finite."""
    lines = [one for steps in log.heard for one in steps]
    counted = sum(one.nan or 0 for one in lines)
    return max(counted, sum("loss" in one.not_finite for one in lines))
