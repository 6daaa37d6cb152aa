"""Hugging Face Trainer: the dictionary it prints at each logging step, the one at the end, and its bar.

    {'loss': 5.1432, 'grad_norm': 1.2, 'learning_rate': 1e-05, 'epoch': 0.03}            4.x
    {'loss': '5.143', 'grad_norm': '1.2', 'learning_rate': '1e-05', 'epoch': '0.03'}     5.x
    {'train_runtime': 10.5, 'train_samples_per_second': 3.8, 'train_loss': 5.1, 'epoch': 1.0}
      5%|▌         | 109/2181 [02:10<41:20,  1.20s/it]

A dictionary names no step, and the bar and it may come through two pipes in any order: neither is matched
with the other. The bar's clock has whole seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.linear import compiled
from orchestrator.parse.dialects.record import Dialect, Figures, stated, stated_real
from orchestrator.parse.strict import Misread

if TYPE_CHECKING:
    from orchestrator.parse.dialects.record import Found, Stated, StepLine
    from orchestrator.parse.transport import Line

BAR = compiled(r"(\d{1,18})/(\d{1,18}) \[(\d{1,9}(:\d\d){1,2})<")
PERCENT = compiled(r" *\d{1,3}")
KEY = compiled(r"'([A-Za-z_0-9./ -]+)': ")
REALS = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "epoch": "epoch",
}
CLOSING = {
    "train_runtime": "train_runtime_s",
    "train_samples_per_second": "train_samples_per_second",
    "train_steps_per_second": "train_steps_per_second",
    "train_tokens_per_second": "train_tokens_per_second",
    "train_loss": "train_loss",
}


def read(line: Line) -> tuple[Found, ...]:
    found: list[Found] = []
    if "it/s" in line.text or "s/it" in line.text:
        found += _bar(line)
    if "'loss':" in line.text or "'train_runtime':" in line.text:
        found += _dictionary(line)
    return tuple(found)


def _bar(line: Line) -> tuple[StepLine, ...]:
    """Only the bar of training has no title: `Loading checkpoint shards: 50%|…` is another one."""
    percent, bar, rest = line.words.partition("%|")
    _, edge, counts = rest.partition("| ")
    match = BAR.match(counts.lstrip())
    if not bar or not edge or match is None or not PERCENT.fullmatch(percent):
        return ()
    figures = Figures(line)
    figures.put("step", int(match[1]))
    figures.put("total_steps", int(match[2]))
    figures.put("elapsed_s", _seconds(match[3]))
    return (figures.made(),)


def _seconds(clock: str) -> float:
    """`MM:SS` or `H:MM:SS`."""
    seconds = 0
    for part in clock.split(":"):
        seconds = seconds * 60 + int(part)
    return float(seconds)


def _dictionary(line: Line) -> tuple[StepLine, ...] | tuple[Stated, ...]:
    begin, end = line.text.find("{'"), line.text.rfind("}")
    if begin < 0:
        return ()
    if end < begin:
        raise Misread("a dictionary without an end")
    said = _pairs(line.text[begin + 1 : end])
    if "train_runtime" in said:
        closing = [
            one for key in CLOSING if key in said for one in stated_real(line, CLOSING[key], said[key])
        ]
        return (*closing, stated(line, "ended", 1))
    if "loss" not in said or not said.keys() & {"learning_rate", "epoch"}:
        return ()
    figures = Figures(line)
    for key, field in REALS.items():
        if key in said and said[key] != "None":
            figures.take(field, said[key])
    return (figures.made(),)


def _pairs(inside: str) -> dict[str, str]:
    """The keys of a flat dictionary with what stands behind them, bare of quotes. Raises Misread."""
    said = {}
    for one in inside.split(", '"):
        match = KEY.match(one if one.startswith("'") else f"'{one}")
        if match is None:
            raise Misread("a dictionary with something between its keys")
        value = one[match.end() - (0 if one.startswith("'") else 1) :].strip()
        said[match[1]] = value[1:-1] if len(value) > 1 and value[0] == value[-1] == "'" else value
    return said


DIALECT = Dialect(
    name="huggingface",
    says="Hugging Face Trainer's {'loss': …} and {'train_runtime': …} dictionaries",
    markers=(b"'loss'", b"'train_runtime'", b"it/s", b"s/it"),
    read=read,
)
