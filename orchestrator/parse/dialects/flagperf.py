"""FlagPerf: `[PerfLog] {json}` events, and what its LLM cases print beside and after training.

    [PerfLog] {"event": "STEP_END", "value": {"loss": 2.68, "global_steps": 3397, "seq/s": 822.4, …}, …}
    Step 10/3051, Loss: 9.87
    tokens_pretrain is 714.2
    Tokens/p/s:  3564.1
    MFU:  0.4798

The closing lines are made by its own formulas, so they are quoted as what the log states, and never used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.linear import compiled
from orchestrator.parse.dialects.record import (
    Dialect,
    Figures,
    json_not_finite,
    json_object,
    json_real,
    json_whole,
    real,
    stated,
)
from orchestrator.parse.strict import Misread

if TYPE_CHECKING:
    from orchestrator.parse.dialects.record import Found
    from orchestrator.parse.transport import Line

HEADER = "[PerfLog]"
STEP = compiled(r"Step (\d{1,18})/(\d{1,18}), Loss: ")
#: Words before a closing figure → our name.
CLOSING = {
    "System tokens per second:": "system_tokens_per_second",
    "Tokens/p/s:": "tokens_per_second_per_device",
    "Theory TFLOPS:": "peak_tflops",
    "Tokens/TFLOPS:": "tokens_per_tflops",
    "MFU:": "mfu",
    "tokens_pretrain is": "mean_sequence_length",
    "tokens_finetune is": "mean_sequence_length",
    "pretrain time is": "train_runtime_s",
    "finetune time is": "train_runtime_s",
}
#: Lines after which closing figures belong to one stage.
STAGES = {
    "Pretrain stage": "pretrain",
    "Finetune stage": "finetune",
    "two-stage average": "average",
}
#: What those lines have in common: every marker is searched for in every byte, so the fewer the better.
CLOSING_MARKERS = (
    b"tokens per second:",
    b"okens/p/s:",
    b"TFLOPS:",
    b"MFU:",
    b"train is",
    b"tune is",
    b" time is",
    b"stage",
)
OWN_STAGE = {"tokens_pretrain is": "pretrain", "pretrain time is": "pretrain"} | {
    "tokens_finetune is": "finetune",
    "finetune time is": "finetune",
}
STEP_KEYS = ("global_steps", "global_step", "step", "steps")
FINISHED = {
    "e2e_time": "end_to_end_s",
    "train_time": "train_runtime_s",
    "raw_train_time": "train_runtime_s",
    "training_sequences_per_second": "train_samples_per_second",
    "throughput(ips)_raw": "train_samples_per_second",
    "final_loss": "final_loss",
}


def read(line: Line) -> tuple[Found, ...]:
    if HEADER in line.text:
        return _event(line)
    if ", Loss: " in line.text:
        return _step(line)
    return _closing(line)


def _event(line: Line) -> tuple[Found, ...]:
    record = json_object(line.text[line.text.find(HEADER) + len(HEADER) :])
    event, value, metadata = record.get("event"), record.get("value"), record.get("metadata")
    if not isinstance(event, str):
        raise Misread("no event in it")
    said = value if isinstance(value, dict) else {}
    where = metadata if isinstance(metadata, dict) else {}
    if event == "STEP_END":
        return _step_end(line, said, where)
    if event == "FINISHED":
        closing = [stated(line, name, figure) for name, figure in _finished(said)]
        return (*closing, stated(line, "ended", 1))
    return ()


def _step_end(line: Line, said: dict[str, Any], where: dict[str, Any]) -> tuple[Found, ...]:
    figures = Figures(line)
    figures.put("step", next((n for key in STEP_KEYS if (n := json_whole(said.get(key))) is not None), None))
    figures.put("epoch", json_real(said.get("epoch")))
    if json_not_finite(said.get("loss")):
        figures.take("loss", str(said["loss"]))
    figures.put("loss", json_real(said.get("loss")))
    figures.put("learning_rate", json_real(said.get("learning_rate")))
    figures.put("samples_per_second", json_real(said.get("seq/s")))
    figures.put("consumed_samples", json_whole(said.get("num_trained_samples")))
    time_ms, rank = json_real(where.get("time_ms")), json_whole(where.get("rank"))
    figures.put("clock_s", None if time_ms is None else time_ms / 1e3)
    made = figures.made() if rank is None else figures.made(rank=rank)
    return (made,)


def _finished(said: dict[str, Any]) -> list[tuple[str, float]]:
    named = [(name, json_real(said.get(key))) for key, name in FINISHED.items()]
    return [(name, value) for name, value in named if value is not None]


def _step(line: Line) -> tuple[Found, ...]:
    place = line.text.find("Step ")
    match = STEP.match(line.text, place) if place >= 0 else None
    if match is None:
        return ()
    figures = Figures(line)
    # Counts calls of forward from 0, and its first loss is a tenth of the real one.
    figures.put("micro_step", int(match[1]) + 1)
    if int(match[1]):
        figures.take("loss", line.text[match.end() :])
    return (figures.made(),)


def _closing(line: Line) -> tuple[Found, ...]:
    words = line.words.strip()
    if words in STAGES:
        return (stated(line, "stage", STAGES[words]),)
    key = next((key for key in CLOSING if words.startswith(key)), None)
    if key is None:
        return ()
    try:
        value = real(words[len(key) :], CLOSING[key])
    except Misread:
        return ()  # `MFU: 41.2% | …` and the like are other programs' lines
    if isinstance(value, str):
        return ()
    found: list[Found] = [stated(line, "stage", OWN_STAGE[key])] if key in OWN_STAGE else []
    found.append(stated(line, CLOSING[key], value))
    if key == "Tokens/p/s:":
        found.append(stated(line, "ended", 1))
    return tuple(found)


DIALECT = Dialect(
    name="flagperf",
    says="FlagPerf's [PerfLog] events or its closing lines (Tokens/p/s:)",
    markers=(
        b"[PerfLog]",
        b", Loss: ",
        *CLOSING_MARKERS,
    ),
    read=read,
    yields_to=("deepspeed", "megatron", "huggingface"),
)
