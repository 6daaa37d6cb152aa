"""Logs of training programs: every sample is read as its JSON says, and no bytes whatever raise."""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import pkgutil
import re
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from orchestrator.cli.parse_verb import DIALECT_NAMES
from orchestrator.errors import ConfigError
from orchestrator.linear import complaint
from orchestrator.logfile import (
    MARK,
    LogResult,
    document,
    exit_code,
    judge_log,
    known_of,
    read_log,
    read_reference,
)
from orchestrator.logfile.table import table_text
from orchestrator.metrics.alignment import align
from orchestrator.metrics.comparison import scaling_efficiency
from orchestrator.metrics.summary import NoValueError
from orchestrator.parse import collecting, transport
from orchestrator.parse import dialects as package
from orchestrator.parse.dialects import DIALECTS, LogReader, Reading, flagperf
from orchestrator.parse.dialects.detect import choose
from orchestrator.parse.transport import MAX_LINE_BYTES, LineReader
from orchestrator.report.numbers import per_cent
from tests.often import often

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGS = Path(__file__).parent / "data" / "logs"
SAMPLES = sorted(path.stem for path in LOGS.glob("*.log"))
#: Times a promise is tried in CI and in full; `make fuzz` raises it.
FUZZ = (1000, 4000)
SLOW = settings(suppress_health_check=[HealthCheck.too_slow])


def reading_of(data: bytes, *, cuts: tuple[int, ...] = ()) -> Reading:
    reader = LogReader()
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(places):
        reader.feed(data[start:end])
    return reader.finish()


def judged(text: str | bytes, *settings_: str, **more: Any) -> LogResult:
    data = text.encode() if isinstance(text, str) else text
    return judge_log(reading_of(data), known_of(settings_), file="log", **more)


def expected_of(name: str) -> dict[str, Any]:
    found = json.loads((LOGS / f"{name}.json").read_text())
    assert isinstance(found, dict)
    return found


def result_of(name: str) -> LogResult:
    return read_log(LOGS / f"{name}.log", known_of(expected_of(name).get("set", ())))


def said(step: Any) -> dict[str, Any]:
    """What a line says, without where it stands."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(step).items()
        if key not in ("line", "run", "seq") and value not in (None, "", ())
    }


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_read_as_its_json_says(name: str) -> None:
    check_sample(LOGS, name)


def check_sample(folder: Path, name: str) -> None:
    expected = json.loads((folder / f"{name}.json").read_text())
    result = read_log(folder / f"{name}.log", known_of(expected.get("set", ())))
    assert result.choice.dialect == expected["dialect"]
    steps = [
        {key: value for key, value in said(step).items() if key not in expected.get("ignore", ())}
        for one in result.heard
        for step in one.steps
        if "only" not in expected or getattr(step, expected["only"]) is not None
    ]
    assert len(steps) == len(expected["steps"])
    for found, wanted in zip(steps, expected["steps"], strict=True):
        assert found == {
            key: pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
            for key, value in wanted.items()
        }
    stated = [[one.name, one.value] for heard in result.heard for one in heard.stated]
    assert stated == [
        [key, pytest.approx(value)] if isinstance(value, float) else [key, value]
        for key, value in expected["stated"]
    ]
    assert sum(one.num_misread for one in result.heard) == expected["not_understood"]
    assert result.reading.passed.num_overlong == expected["overlong"]
    assert (result.reading.passed.truncated is not None) == expected["truncated"]
    if "status" in expected:
        assert result.status == expected["status"], result.reasons
    for metric, value in expected.get("metrics", {}).items():
        assert result.value(metric) == (None if value is None else pytest.approx(value, rel=1e-9)), metric


def test_the_corpus_covers_every_dialect_and_names_its_formats() -> None:
    assert len(SAMPLES) >= 60
    assert {expected_of(name)["dialect"] for name in SAMPLES} == {one.name for one in DIALECTS}
    for name in SAMPLES:
        assert re.search(r"\.(py|md)\b", expected_of(name)["format_source"]), name
        assert expected_of(name)["situation"]


@pytest.mark.parametrize("name", SAMPLES)
def test_no_cell_of_a_log_is_measured_and_every_output_says_so(name: str) -> None:
    result = result_of(name)
    assert result.status in ("PARSED", "INVALID", "INCOMPLETE")
    assert MARK in table_text([result]).splitlines()[0]
    text = json.dumps(document([result]), allow_nan=False)
    assert json.loads(text)["logs"][0]["mark"] == MARK
    assert "MEASURED" not in text + table_text([result])
    for metric in result.metrics:
        assert (metric.value is None) != (metric.reason is None)
        if result.status != "PARSED":
            assert metric.value is None


def rows(rate: float, *, world: int, batch: int, length: float) -> float:
    """The time of one step, in seconds, at `rate` tokens/s and device."""
    return batch * length / world / rate


def deepspeed_log(rate: float, *, world: int, length: int) -> str:
    speed = rate * world / length
    return "".join(
        f"[2026-11-21 10:00:00,000] [INFO] [timer.py:264:stop] epoch=0/micro_step={k}/global_step={k}, "
        f"RunningAvgSamplesPerSec={speed!r}, CurrSamplesPerSec={speed!r}, MemAllocated=1.0GB, "
        "MaxMemAllocated=57.0GB\n"
        for k in range(50, 3051, 50)
    )


def megatron_log(rate: float, *, world: int, length: int, batch: int, steps: int = 100) -> str:
    time_ms = 1000 * rows(rate, world=world, batch=batch, length=length)
    return "".join(
        f" [2026-11-21 10:00:00] iteration {k:8d}/{steps:8d} | consumed samples: {k * batch:12d} | "
        f"elapsed time per iteration (ms): {time_ms:.1f} | learning rate: 1.500000E-04 | "
        f"global batch size: {batch:5d} | lm loss: 5.600000E+00 | loss scale: 1.0 | grad norm: 1.000 | "
        "number of skipped iterations:   0 | number of nan iterations:   0 |\n"
        for k in range(1, steps + 1)
    )


def trainer_log(rate: float, *, world: int, length: float, batch: int, steps: int) -> str:
    time_s = rows(rate, world=world, batch=batch, length=length)
    runtime = round(steps * time_s, 4)
    lines = "".join(f"{{'loss': 2.1025, 'learning_rate': 0.001, 'epoch': {k / steps}}}\n" for k in range(10))
    return lines + (
        f"{{'train_runtime': {runtime}, 'train_samples_per_second': {round(steps * batch / runtime, 3)}, "
        f"'train_steps_per_second': {round(steps / runtime, 3)}, 'train_loss': 2.1025, 'epoch': 1.0}}\n"
    )


@pytest.mark.parametrize(("rate", "peak", "published"), [(3564.0, 312, "47.98%"), (7151.0, 989, "30.37%")])
def test_published_7b_rows_come_out_of_deepspeed_logs(rate: float, peak: int, published: str) -> None:
    result = judged(
        deepspeed_log(rate, world=8, length=4096),
        *("world_size=8", "sequence_length=4096", "total_steps=3051", "parameters=7e9", "multiplier=6"),
        f"peak_tflops={peak}",
    )
    assert result.value("tokens_per_second_per_device") == pytest.approx(rate, rel=1e-9)
    assert per_cent(result.value("mfu_published") or 0) == published


@pytest.mark.parametrize(
    ("rate", "batch", "peak", "published"),
    [
        (641.93, 44, 989, "27.26%"),
        (791.37, 44, 989, "33.61%"),
        (908.29, 1024, 989, "38.57%"),
        (253.61, 44, 989, "10.77%"),
        (253.61, 44, 495, "21.52%"),
    ],
)
def test_published_70b_rows_come_out_of_megatron_logs(
    rate: float, batch: int, peak: int, published: str
) -> None:
    result = judged(
        megatron_log(rate, world=32, length=4096, batch=batch),
        *("world_size=32", "sequence_length=4096", "parameters=70e9", "multiplier=6", f"peak_tflops={peak}"),
        *("parallelism=TP8PP4DP1", "micro_batch_size=1", f"gradient_accumulation_steps={batch}"),
    )
    assert result.status == "PARSED", result.reasons
    # Megatron prints a tenth of a millisecond.
    assert result.value("tokens_per_second_per_device") == pytest.approx(rate, rel=1e-5)
    assert per_cent(result.value("mfu_published") or 0) == published


@pytest.mark.parametrize(
    ("rate", "parameters", "multiplier", "length", "published"),
    [
        (4013.0, "7e9", 2, 714.0, "18.01%"),
        (2937.0, "7e9", 6, 1050.0, "39.54%"),
        (2273.54, "13e9", 2, 714.0, "18.95%"),
        (1622.90, "13e9", 6, 1050.0, "40.57%"),
    ],
)
def test_published_llava_rows_come_out_of_trainer_logs(
    rate: float, parameters: str, multiplier: int, length: float, published: str
) -> None:
    batch, steps = (256, 2181) if multiplier == 2 else (128, 5198)
    result = judged(
        trainer_log(rate, world=8, length=length, batch=batch, steps=steps),
        *("world_size=8", "sequence_length=2048", f"mean_sequence_length={length}", "warmup_steps=0"),
        *(f"parameters={parameters}", f"multiplier={multiplier}", "peak_tflops=312"),
    )
    speed = next(one for one in result.metrics if one.name == "tokens_per_second_per_device")
    assert speed.value == pytest.approx(rate, rel=1e-4)
    assert speed.details["padded"] == pytest.approx(rate * 2048 / length, rel=1e-4)
    assert per_cent(result.value("mfu_published") or 0) == published


def test_a_window_has_its_median_mean_deviation_count_and_interval() -> None:
    log = megatron_log(100.0, world=1, length=1000, batch=1, steps=3)
    times = [50.0, 40.0, 10.0, 12.0, 11.0, 13.0, 9.0, 14.0, 10.5]
    lines = [log.splitlines()[0]] * len(times)
    text = "".join(
        re.sub(
            r"iteration +1/ +3 \| consumed samples: +1", f"iteration {n}/ 9 | consumed samples: {n}", line
        ).replace(
            "elapsed time per iteration (ms): 10000.0", f"elapsed time per iteration (ms): {time * 1000}"
        )
        + "\n"
        for n, (line, time) in enumerate(zip(lines, times, strict=True), start=1)
    )
    result = judged(text, "world_size=1", "sequence_length=1000")
    details = next(one.details for one in result.metrics if one.name == "tokens_per_second_per_device")
    assert (details["n"], details["first_step"], details["last_step"]) == (7, 3, 9)
    assert details["median"] == pytest.approx(1000 / 11.0)
    assert details["mean"] == pytest.approx(sum(1000 / time for time in times[2:]) / 7)
    assert details["std"] is not None
    assert details["ci95_low"] == pytest.approx(1000 / 14.0)
    assert details["ci95_high"] == pytest.approx(1000 / 9.0)


def test_every_size_that_a_figure_lacks_is_named_with_the_option_that_says_it() -> None:
    result = judged(deepspeed_log(3564.0, world=8, length=4096), "total_steps=3051")
    reason = next(one.reason for one in result.metrics if one.name == "tokens_per_second_per_device")
    assert reason is not None
    assert "--set world_size=N" in reason
    reason = next(one.reason for one in result.metrics if one.name == "mfu_published")
    assert reason is not None
    assert all(f"--set {name}=N" in reason for name in ("multiplier", "parameters", "peak_tflops"))


def test_a_speed_above_the_peak_is_invalid() -> None:
    result = judged(
        deepspeed_log(3564.0, world=8, length=4096),
        *("world_size=8", "sequence_length=4096", "total_steps=3051"),
        *("parameters=70e9", "multiplier=6", "peak_tflops=312"),
    )
    assert result.status == "INVALID"
    assert "mfu_possible" in result.reasons[0]


def test_garbage_is_collected_as_before_once_a_log_was_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("nothing of a known form\n")
    seen = []

    def looking() -> Iterator[bytes]:
        with collecting.paused():
            seen.append(gc.isenabled())
            yield b""

    for wanted in (True, False):
        (gc.enable if wanted else gc.disable)()
        try:
            list(looking())
            with pytest.raises(ConfigError):
                read_log(log, known_of(()))
            assert gc.isenabled() is wanted
        finally:
            gc.enable()
    assert seen == [False, False]


def test_two_dialects_in_one_log_are_refused_with_both_and_taken_by_name(tmp_path: Path) -> None:
    both = tmp_path / "both.log"
    both.write_text((LOGS / "megatron-2024.log").read_text() + (LOGS / "torchtitan-plain.log").read_text())
    with pytest.raises(ConfigError) as raised:
        read_log(both, known_of(()))
    problem = raised.value.problems[0]
    assert problem.code == "E811"
    assert "megatron (6 lines of training, the first is line 1)" in problem.message
    assert "torchtitan (" in problem.message
    assert "--dialect torchtitan" in (problem.help or "")
    assert read_log(both, known_of(()), dialect="torchtitan").choice.dialect == "torchtitan"


def test_a_log_without_training_is_refused_with_what_looked_like_it(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.log"
    nothing.write_text("hello\n iteration 1/ 2 | elapsed time per iteration (ms): soon |\n")
    with pytest.raises(ConfigError) as raised:
        read_log(nothing, known_of(()))
    assert raised.value.problems[0].code == "E811"
    assert "step_time_s is 'soon', no number" in raised.value.problems[0].message


def test_settings_are_read_strictly_and_every_wrong_one_is_named() -> None:
    with pytest.raises(ConfigError) as raised:
        known_of(
            [
                "worldsize=8",
                "sequence_length=0",
                "warmup_steps=1.5",
                "peak_tflops=nan",
                "world_size=8",
                "world_size=9",
                "parallelism=TP8TP4",
                "stage=middle",
                "parameters",
            ]
        )
    texts = [str(problem) for problem in raised.value.problems]
    assert len(texts) == 8
    assert all("E812" in text for text in texts)
    assert "did you mean world_size?" in texts[0]


def test_a_curve_is_aligned_below_two_per_cent_from_step_21_on() -> None:
    reference = {step: 10.0 - step / 20 for step in range(1, 101)}
    early = {step: loss * (3 if step < 21 else 1.019) for step, loss in reference.items()}
    found = align(early, reference)
    assert found.aligned
    assert found.n == 80
    assert found.mean_relative_error == pytest.approx(0.019)
    assert not align({step: loss * 1.021 for step, loss in reference.items()}, reference).aligned
    assert not align({30: 51.0, 31: 51.0}, {30: 50.0, 31: 50.0}).aligned
    with pytest.raises(NoValueError):
        align({1: 2.0}, reference)


@pytest.mark.parametrize(("shared", "decides"), [(1, False), (97, False), (98, True)])
def test_too_few_shared_steps_decide_nothing_about_a_curve(shared: int, decides: bool) -> None:
    reference = dict.fromkeys(range(1, 1001), 5.0)
    losses = dict.fromkeys(range(21, 21 + shared), 5.0)
    if decides:
        assert align(losses, reference).aligned
        return
    with pytest.raises(NoValueError, match=f"share {shared} of the reference's 980 steps"):
        align(losses, reference)


def test_no_curve_of_a_log_with_nan_losses_or_without_its_end_is_aligned() -> None:
    log = megatron_log(641.93, world=32, length=4096, batch=44)
    reference = dict.fromkeys(range(1, 101), 5.6)
    half = "lm loss: 5.600000E+00"
    broken = "".join(
        line.replace(half, "lm loss: nan") if number > 30 else line
        for number, line in enumerate(log.splitlines(keepends=True))
    )
    cut = "".join(log.splitlines(keepends=True)[:60])
    for text, reason, code in ((broken, "69 steps have no finite loss", 1), (cut, "ends at step 60", 4)):
        result = judged(text, reference=reference)
        assert isinstance(result.alignment, str)
        assert reason in result.alignment
        assert exit_code([result]) == code
    assert exit_code([judged(log, reference=reference)]) == 0


def test_what_no_float_holds_is_no_figure_of_scaling_or_alignment(tmp_path: Path) -> None:
    slow, fast = (
        judged(
            f"using world size: {world}, data-parallel size: {world}\n"
            + re.sub(
                r"iteration \(ms\): [0-9.]+",
                f"iteration (ms): {time}",
                megatron_log(100.0, world=1, length=8, batch=2),
            ),
            "sequence_length=8",
        )
        for world, time in ((1, "1e299"), (2, "1e-290"))
    )
    assert slow.status == fast.status == "PARSED"
    assert document([slow, fast])["scaling"] == []
    table_text([slow, fast])
    with pytest.raises(NoValueError):
        align(dict.fromkeys(range(21, 30), 1e200), dict.fromkeys(range(21, 30), 1e-200))


def test_a_curve_that_is_no_csv_is_refused_with_a_code(tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    curve.write_text("step,loss\n1," + "9" * 200_000 + "\n")
    with pytest.raises(ConfigError, match="E813"):
        read_reference(curve, known_of(()))


@pytest.mark.parametrize("setting", ["stage=pretrain", "multiplier=2"])
def test_palms_mfu_of_a_pretrain_stage_counts_four_flops_a_parameter(setting: str) -> None:
    sizes = ("num_parameters=7e9", "num_layers=32", "hidden_size=4096", "peak_tflops=312")
    lengths = ("world_size=8", "sequence_length=2048", "mean_sequence_length=714", "total_steps=3051")
    result = judged(deepspeed_log(4000.0, world=8, length=714), *sizes, *lengths, setting)
    wanted = 4000.0 * (4 * 7e9 + 12 * 32 * 4096 * 714) / 312e12
    assert result.value("mfu_palm") == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    "name",
    [
        "deepspeed-samplespersec",
        "flagperf-llava-closing",
        "mllog-train-loss",
        "huggingface-4",
        "huggingface-bar",
        "megatron-2024",
        "torchtitan-sizes",
        "events-one-rank",
    ],
)
def test_a_log_twice_in_one_file_is_invalid(name: str) -> None:
    data = (LOGS / f"{name}.log").read_bytes()
    known = known_of(expected_of(name).get("set", ()))
    assert judge_log(reading_of(data), known, file="once").status == "PARSED"
    assert judge_log(reading_of(data + data), known, file="twice").status == "INVALID"


def test_a_bar_that_goes_back_is_of_two_runs() -> None:
    name = "huggingface-resumed-bar"
    data = (LOGS / f"{name}.log").read_bytes().partition(b"\n")[0]
    ended = (LOGS / f"{name}.log").read_bytes()
    result = judge_log(reading_of(data + ended), known_of(expected_of(name)["set"]), file="f")
    assert result.status == "INVALID"
    assert "two logs in one file" in result.reasons[0]


@pytest.mark.parametrize(
    "steps", [range(1, 101), range(10, 101, 10), [1, *range(10, 101, 10)], [*range(7, 101, 10), 100]]
)
def test_what_is_printed_every_few_steps_has_no_holes_and_a_speed(steps: Any) -> None:
    lines = megatron_log(641.93, world=32, length=4096, batch=44).splitlines(keepends=True)
    sizes = ("world_size=32", "sequence_length=4096")
    result = judged("".join(lines[step - 1] for step in steps), *sizes)
    assert result.value("tokens_per_second_per_device") == pytest.approx(641.93, rel=1e-5)
    kept = [step for step in steps if not 30 < step < 60]
    result = judged("".join(lines[step - 1] for step in kept), *sizes)
    assert result.value("tokens_per_second_per_device") is None


def test_megatron_and_torchtitan_say_their_end_where_the_last_line_is_not_of_the_last_step() -> None:
    lines = megatron_log(641.93, world=32, length=4096, batch=44, steps=95).splitlines(keepends=True)
    text = "".join(lines[step - 1] for step in range(10, 91, 10))
    assert judged(text).status == "INCOMPLETE"
    assert judged(text + "[after training is done] datetime: 2026-11-21 10:00:00\n").status == "PARSED"


def test_a_log_follows_a_curve_from_csv_or_log_and_leads_to_exit_1_when_it_does_not(tmp_path: Path) -> None:
    near, far, log = tmp_path / "near.csv", tmp_path / "far.csv", tmp_path / "log.txt"
    log.write_text(megatron_log(641.93, world=32, length=4096, batch=44))
    near.write_text("step,loss\n" + "".join(f"{n},{5.6 * 1.01}\n" for n in range(1, 101)))
    far.write_text("iteration,lm loss\n" + "".join(f"{n},{5.6 * 1.05}\n" for n in range(1, 101)))
    known = known_of(())
    for reference, aligned, code in ((near, True, 0), (far, False, 1), (log, True, 0)):
        result = read_log(log, known, reference=read_reference(reference, known))
        assert document([result])["logs"][0]["alignment"]["aligned"] is aligned
        assert exit_code([result]) == code
    bad = tmp_path / "bad.csv"
    bad.write_text("step,loss\n1,nan\n2\n")
    with pytest.raises(ConfigError) as raised:
        read_reference(bad, known)
    assert [problem.line for problem in raised.value.problems] == [2, 3]


def test_scaling_is_the_share_of_the_smallest_scale_that_each_device_keeps() -> None:
    points = scaling_efficiency({64: 700.0, 8: 1000.0, 32: 900.0})
    assert [(point.world_size, point.efficiency) for point in points] == [(8, 1.0), (32, 0.9), (64, 0.7)]
    assert scaling_efficiency({8: 1.0}) == ()


def test_logs_of_several_scales_show_their_scaling(tmp_path: Path) -> None:
    known = known_of(("sequence_length=4096",))
    results = []
    for world, rate in ((32, 641.93), (64, 577.737)):
        log = tmp_path / f"{world}.log"
        head = f"using world size: {world}, data-parallel size: {world // 32}, "
        log.write_text(
            f"{head}tensor-model-parallel size: 8, pipeline-model-parallel size: 4\n"
            + megatron_log(rate, world=world, length=4096, batch=44)
        )
        results.append(read_log(log, known))
    assert [round(point["efficiency"], 4) for point in document(results)["scaling"]] == [1.0, 0.9]
    assert "90.00% of the smallest scale" in table_text(results)


def test_nothing_of_a_log_or_its_name_reaches_a_terminal_unescaped() -> None:
    log = (
        (LOGS / "megatron-2024.log").read_bytes()
        + b"\x1b]0;owned\x07 iteration 7/ 6 | elapsed time per iteration (ms): \x9b31m\xe2\x80\xae |\n"
        + b"\x1b[2J cut \x07"
    )
    result = judge_log(reading_of(log), known_of(()), file="a\x1b[31m\u202eb.log")
    for text in (table_text([result]), json.dumps(document([result]), ensure_ascii=False)):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_way_a_sample_is_cut_into_chunks_changes_nothing(name: str) -> None:
    data = (LOGS / f"{name}.log").read_bytes()
    whole = reading_of(data)
    for size in (1, 7, 4096):
        if size > 1 or len(data) < 8192:
            assert reading_of(data, cuts=tuple(range(0, len(data), size))) == whole


PIECES = st.sampled_from(
    [
        *(
            line
            for name in SAMPLES
            if "overlong" not in name
            for line in (LOGS / f"{name}.log").read_bytes().splitlines(keepends=True)[-4:]
            if len(line) < 2000
        ),
        *(marker for dialect in DIALECTS for marker in dialect.markers),
        *(
            b"\r",
            b"\n",
            b"\r\n",
            b"\0",
            b"\x1b[",
            b"\x1b[31m",
            b"[rank0]: ",
            b"| ",
            b"{'",
            b"'}",
            b": ",
            b"e9",
            b"1" * 400,
        ),
    ]
)


@often(
    *FUZZ,
    like=SLOW,
    data=st.lists(st.one_of(PIECES, st.binary(max_size=40)), max_size=12).map(b"".join),
    cuts=st.lists(st.integers(0, 4000), max_size=5).map(tuple),
)
def test_no_bytes_raise_and_chunks_change_nothing(data: bytes, cuts: tuple[int, ...]) -> None:
    reading = reading_of(data, cuts=cuts)
    assert reading == reading_of(data)
    for dialect in (*DIALECT_NAMES, "auto"):
        try:
            result = judge_log(
                reading, known_of(("sequence_length=8", "world_size=2")), file="f", dialect=dialect
            )
        except ConfigError as refused:
            assert {problem.code for problem in refused.problems} == {"E811"}
            continue
        json.dumps(document([result]), allow_nan=False)
        table_text([result])


@often(*FUZZ, like=SLOW, data=st.data())
def test_nearly_true_samples_never_raise(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([name for name in SAMPLES if "overlong" not in name]))
    mutated = bytearray((LOGS / f"{name}.log").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, max(0, len(mutated) - 1)))
        mutated[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    cuts = tuple(data.draw(st.lists(st.integers(0, len(mutated)), max_size=3)))
    reading = reading_of(bytes(mutated), cuts=cuts)
    assert reading == reading_of(bytes(mutated))
    known = known_of(tuple(expected_of(name).get("set", ())))
    try:
        json.dumps(document([judge_log(reading, known, file="f")]), allow_nan=False)
    except ConfigError as refused:
        assert {problem.code for problem in refused.problems} == {"E811"}


def test_every_expression_reads_a_line_once() -> None:
    modules = [
        importlib.import_module(f"{package.__name__}.{one.name}")
        for one in pkgutil.iter_modules(package.__path__)
    ]
    expressions = {
        value.pattern
        for module in (*modules, transport)
        for value in vars(module).values()
        if isinstance(value, re.Pattern)
    }
    assert len(expressions) > 10
    for expression in expressions:
        assert complaint(expression) is None


def test_a_line_over_64_kib_is_counted_and_never_held() -> None:
    reader = LineReader([b"needle"])
    for _ in range(1600):
        assert reader.feed(b"needle " * 9362) == []
    assert len(reader._pending) <= MAX_LINE_BYTES
    (line,) = reader.feed(b"\nneedle\n")
    passed = reader.passed()
    assert (line.number, passed.num_overlong, passed.num_lines) == (2, 1, 2)
    assert passed.num_bytes > 100_000_000


def test_a_line_of_exactly_64_kib_is_read() -> None:
    for extra, lines in ((0, 1), (1, 0)):
        reader = LineReader([b"needle"])
        found = reader.feed(b"needle" + b"x" * (MAX_LINE_BYTES - 6 + extra) + b"\n")
        assert (len(found), reader.passed().num_overlong) == (lines, 1 - lines)


def test_no_line_within_the_limit_costs_more_than_ten_times_ten_milliseconds() -> None:
    # Promised are 10 ms; a tenfold allowance lets a busy machine pass and nothing that is not linear.
    for dialect in DIALECTS:
        for marker in dialect.markers:
            for filling in (
                b"1",
                b" ",
                b"|",
                b":",
                b"{'a': ",
                b", ",
                b"[",
                b"\x1b[",
                b"=",
                b"0,",
                b"- ",
                b"\0",
                b" lm loss: 1.0 |",
                b"time (ms) | fwd: 1.0 | ",
                b"'loss': 1, ",
                b"[rank0]: ",
                b"| 3/3 [00:01<00:02, 3.0s/it]",
            ):
                room = (MAX_LINE_BYTES - len(marker)) // len(filling) - 1
                for line in (
                    filling * room + marker,
                    marker + filling * room,
                    (marker + filling) * (MAX_LINE_BYTES // len(marker + filling)),
                ):
                    before = time.process_time()
                    reading_of(line + b"\n")
                    assert time.process_time() - before < 0.1, (dialect.name, marker, filling)


def test_the_verb_knows_the_dialects_by_their_names() -> None:
    assert tuple(dialect.name for dialect in DIALECTS) == DIALECT_NAMES


def test_detection_says_why() -> None:
    found = choose(reading_of((LOGS / "deepspeed-flagperf-llama2.log").read_bytes()))
    assert found.dialect == "deepspeed"  # type: ignore[union-attr]
    assert found.evidence == "2 lines of training, the first is line 3"  # type: ignore[union-attr]
    assert found.beside == ("flagperf",)  # type: ignore[union-attr]


@pytest.mark.trainer
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in SAMPLES if "captured" in name])
def test_what_an_emitter_prints_today_is_read(name: str, tmp_path: Path) -> None:
    if name.startswith("huggingface"):
        pytest.importorskip("accelerate", reason="Hugging Face Trainer needs it; pip install 'nx8[perf]'")
    capture = Path(__file__).parent / "capture_logs.py"
    done = subprocess.run([sys.executable, str(capture), str(tmp_path), name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_sample(tmp_path, name)


def nx8(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "orchestrator", *words]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd=cwd, env=environment)


def test_the_verb_reads_files_anywhere_and_its_exit_code_says_what_they_are_worth(tmp_path: Path) -> None:
    sizes = ("--set", "sequence_length=4096", "--set", "world_size=32")
    done = nx8("parse", str(LOGS / "megatron-2024.log"), *sizes, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"PARSED ({MARK})" in done.stdout
    assert "641.93" in done.stdout
    done = nx8("parse", str(LOGS / "megatron-restart.log"), *sizes, "--format", "json", cwd=tmp_path)
    assert done.returncode == 4
    log = json.loads(done.stdout)["logs"][0]
    assert log["status"] == "INVALID"
    assert log["reasons"] == [
        "steps_once: step 3 is reported on line 3 and again on line 5: a restart, or two logs in one file"
    ]


def test_the_verb_refuses_what_mixes_runs_and_files(tmp_path: Path) -> None:
    log = str(LOGS / "megatron-2024.log")
    for words, code in (
        ((log, "missing.log"), "E810"),
        (("latest", "--set", "world_size=8"), "E810"),
        (("--dialect", "megatron"), "E814"),
        ((log, "--set", "world=8"), "E812"),
        ((log, "--reference", "missing.csv"), "E810"),
    ):
        done = nx8("parse", *words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert f"error[{code}]" in done.stderr


def test_every_closing_line_holds_a_marker() -> None:
    for key in (*flagperf.CLOSING, *flagperf.STAGES):
        assert any(marker in key.encode() for marker in flagperf.CLOSING_MARKERS), key


@pytest.mark.parametrize("size", ["world_size", "micro_batch_size", "tensor_model_parallel_size"])
def test_a_size_of_zero_is_no_size_and_makes_the_log_invalid(size: str) -> None:
    log = (LOGS / "megatron-arguments.log").read_bytes()
    dots = b"  " + size.encode() + b" "
    zeroed = b"\n".join(
        line.rpartition(b" ")[0] + b" 0" if line.startswith(dots) else line for line in log.split(b"\n")
    )
    if zeroed == log:
        zeroed = log.replace(b"-----\n", b"-----\n" + dots + b"." * 30 + b" 0\n", 1)
    assert zeroed != log
    result = judge_log(reading_of(zeroed), known_of(()), file="f")
    assert result.status == "INVALID"
    assert any("which no run has" in reason for reason in result.reasons)


def test_a_single_line_of_step_zero_is_read() -> None:
    log = (LOGS / "megatron-2024.log").read_bytes().splitlines(keepends=True)[0]
    zero = log.replace(b"iteration        1/       6", b"iteration        0/       6")
    assert zero != log
    assert judge_log(reading_of(zero), known_of(()), file="f").status != "PARSED"
