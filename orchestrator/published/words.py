"""The words of published documents: headings in every known spelling, placeholders, quantities, 配置, batch
sizes. Pure; what is not understood stays what it was.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from orchestrator.published.markup import plain
from orchestrator.published.model import State

if TYPE_CHECKING:
    from orchestrator.published.model import Column, Precision

#: Column → spellings, the published ones first: those are right, the others are understood.
_RIGHT: dict[Column, tuple[str, ...]] = {
    "config": ("配置", "Configuration", "config"),
    "precision": ("precision",),
    "parallel": ("parallel",),
    "fix_hp": ("fix_hp",),
    "tokens_per_second_per_device": ("token/p/s",),
    "loss": ("loss",),
    "mem": ("mem",),
    "acc_mmmu": ("acc(MMMU)", "MMMU"),
    "mfu": ("MFU",),
    "aligned": ("是否精度对齐",),
    "tokens_per_tflops": ("Tokens/TFLOPS",),
}
_UNDERSTOOD: dict[Column, tuple[str, ...]] = {
    "config": ("设备配置", "configuration", "setup", "system"),
    "precision": ("精度", "数据精度", "dtype", "data precision"),
    "parallel": ("并行", "并行方案", "并行策略", "parallelism"),
    "fix_hp": ("fix hp", "fixhp", "超参修改", "hyperparameters"),
    "tokens_per_second_per_device": (
        *("tokens/p/s", "token/s/p", "tokens/s/p", "token/s/device", "tokens/s/device", "tokens/s/gpu"),
        *("tgs", "吞吐量", "throughput", "token/p/sec", "tokens/sec/device"),
    ),
    "loss": ("损失值", "损失", "train loss", "train_loss", "lm loss"),
    "mem": ("显存", "memory", "mem(gib)", "mem(gb)", "mem/gib", "硬件存储使用"),
    "acc_mmmu": ("mmmu(val)", "mmmu(val)结果"),
    "mfu": ("计算使用率", "mfu(%)"),
    "aligned": ("精度对齐", "aligned"),
    "tokens_per_tflops": ("token/tflops",),
}
#: What a cell of each quantity looks like; the other columns hold words.
SHAPES: dict[Column, str] = {
    "tokens_per_second_per_device": "number",
    "loss": "number",
    "mem": "pair",
    "acc_mmmu": "percent",
    "mfu": "percent",
    "tokens_per_tflops": "number",
}
_PLACEHOLDERS = frozenset(
    {*"/-–—\\*~", "--", "---", "——", "n/a", "na", "none", "null", "无", "暂无", "tbd", "\\*", "//"}
)
_DIGITS = r"[0-9]{1,12}(?:\.[0-9]{1,12})?"
_NUMBER = re.compile(_DIGITS)
_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3}){1,4}(?:\.[0-9]{1,12})?")
_WITH_UNIT = re.compile(rf"({_DIGITS})[ ]?(k|tokens?(?:/p)?/s(?:/p)?)", re.IGNORECASE)
_PERCENT = re.compile(rf"({_DIGITS})[ ]?%")
_PAIR = re.compile(
    rf"({_DIGITS})[ ]?(gib|gb|g|mib|mb|m)?[ ]?/[ ]?({_DIGITS})[ ]?(gib|gb|g|mib|mb|m)?", re.IGNORECASE
)
_CONFIG_WORDS = re.compile(r"([单一双两二三四五六七八九十]|[0-9]{1,4})机|\(")
_SCALE = re.compile(r"([0-9]{1,5})[ ]?[x×][ ]?([0-9]{1,5})", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"\(([^()]{1,80})\)")
_ASSIGNED = re.compile(r"(?<![A-Za-z0-9_])([^\W\d][\w-]{0,40})[ ]?=[ ]?([^\s,;()=]{1,40})")
_COUNT = re.compile(r"[0-9]{1,9}")
#: What fix_hp sets → its spellings, without case, `_` and `-`.
_SETTINGS = {
    "LBS": ("lbs", "localbatchsize", "microbatchsize"),
    "MPE": ("mpe", "seqlength", "seqlen", "sequencelength", "maxpositionembedding"),
    "GAS": ("gas", "gradientaccumulationsteps", "gradientaccumulatesteps"),
    "GBS": ("gbs", "globalbatchsize"),
    "precision": ("precision", "dtype", "数据精度", "精度"),
}
#: Parts of an unknown key → the facts that it may change, so that no default holds.
_TOUCHES = {
    "batch": ("LBS", "GAS", "GBS"),
    "bs": ("LBS", "GAS", "GBS"),
    "批": ("LBS", "GAS", "GBS"),
    "accum": ("GAS", "GBS"),
    "seq": ("MPE",),
    "length": ("MPE",),
    "position": ("MPE",),
    "precision": ("precision",),
    "精度": ("precision",),
    "dtype": ("precision",),
    "fp16": ("precision",),
    "bf16": ("precision",),
    "fp32": ("precision",),
    "tf32": ("precision",),
    "amp": ("precision",),
}
#: The last two stand in documents of ours.
_RECOMPUTE = re.compile(r"recompute[ ]?=[ ]?(true|false|full|selective)", re.IGNORECASE)
_DEFAULT = re.compile(
    r"(?:默认为|默认值为|defaults? (?:to|is))[ ]?([0-9]{1,9})|([0-9]{1,9}) unless said otherwise",
    re.IGNORECASE,
)
_PER_STAGE = re.compile(r"([A-Za-z]{2,20})阶段为[ ]?([0-9]{1,9})|([0-9]{1,9}) for ([A-Za-z]{2,20})")
#: A footnote's mark behind a value, as reports of ours have them.
_FOOTNOTES = re.compile(r"(?:\[\^[0-9]{1,4}\]|[*†‡])+$")
_BATCH_KEY = re.compile(r"(?<![A-Za-z])(LBS|MPE|GAS)(?![A-Za-z])")
_DEGREE = re.compile(r"(TP|PP|DP|CP|EP)([0-9]{1,5})")
_SIZE = re.compile(r"(?<![0-9.x])([0-9]{1,4}(?:\.[0-9]{1,3})?)b(?![a-z0-9])")
_FRAMEWORK = re.compile(
    r"^(?:deepspeed|megatron|flagscale)[-_]|[-_](?:deepspeed(?:-torch)?|megatron|flagscale)$"
)
PRECISIONS = ("fp32", "tf32", "amp", "fp16", "bf16", "fp8")
MIB_PER_GIB = 1024
#: No device holds this many GiB: such a figure is in MiB.
MOST_GIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one cell says as its column's quantity; `unit` is what is unusual about how it is written."""

    state: State
    value: float | None = None
    capacity: float | None = None
    unit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """What 配置 says. A device is None where a placeholder stands for it."""

    device: str | None
    num_nodes: int | None
    devices_per_node: int | None
    stage: str | None


def folded(text: str) -> str:
    """One width for every character (full-width brackets and digits are ASCII), no blanks around."""
    return unicodedata.normalize("NFKC", text).strip()


def column_of(heading: str) -> tuple[Column | None, bool]:
    """Our name of a column, and whether its heading has the published spelling."""
    words = plain(heading)
    name = folded(words)
    for column, spellings in _RIGHT.items():
        if name in spellings:
            return column, True
    found = _BY_SPELLING.get(_key(name))
    return found, False


def right_spelling(column: Column) -> str:
    return _RIGHT[column][0]


def _key(name: str) -> str:
    return re.sub(r"[\s*_`]+", "", name).lower()


_BY_SPELLING: dict[str, Column] = {
    _key(spelling): column
    for table in (_RIGHT, _UNDERSTOOD)
    for column, spellings in table.items()
    for spelling in spellings
}


def is_placeholder(text: str) -> bool:
    return folded(text).lower() in _PLACEHOLDERS


def _bare(text: str) -> str:
    """A cell's words without the marks of footnotes behind them."""
    words = folded(text)
    return _FOOTNOTES.sub("", words).strip() or words


def shape(text: str) -> str:
    """number, percent, pair, placeholder, blank or words: what a cell looks like, whatever its column."""
    words = _bare(text)
    if not words:
        return "blank"
    if is_placeholder(words):
        return "placeholder"
    for name, pattern in (("percent", _PERCENT), ("pair", _PAIR), ("number", _NUMBER), ("number", _GROUPED)):
        if pattern.fullmatch(words):
            return name
    return "words"


def read_cell(column: Column | None, raw: str | None) -> Reading:
    """The state and value of a cell; None is one that its row does not have. No quantity is negative."""
    if raw is None:
        return Reading(state="absent")
    words = _bare(plain(raw))
    if not words:
        return Reading(state="blank")
    if is_placeholder(words):
        return Reading(state="placeholder")
    if column not in SHAPES:
        return Reading(state="text")
    reading = {"pair": _pair, "percent": _percent, "number": _number}[SHAPES[column]](words)
    if reading is not None:
        return reading
    return Reading(state="unread" if re.search("[0-9]", words) else "status")


def _number(words: str) -> Reading | None:
    if _NUMBER.fullmatch(words):
        return Reading(state="number", value=float(words))
    if _GROUPED.fullmatch(words):
        return Reading(state="number", value=float(words.replace(",", "")), unit="commas in the number")
    found = _WITH_UNIT.fullmatch(words)
    if found is None:
        return None
    value = float(found[1]) * (1000 if found[2].lower() == "k" else 1)
    return Reading(state="number", value=value, unit=f"the unit {found[2]} in the cell")


def _percent(words: str) -> Reading | None:
    found = _PERCENT.fullmatch(words)
    if found:
        return Reading(state="number", value=_hundredth(float(found[1])))
    if not _NUMBER.fullmatch(words):
        return None
    value = float(words)
    return Reading(state="number", value=value if value <= 1 else _hundredth(value), unit="no %")


def _hundredth(value: float) -> float:
    """Division by 100 leaves digits behind that nobody wrote: 36.2 / 100 is 0.36200000000000004."""
    return float(f"{value / 100:.12g}")


def _pair(words: str) -> Reading | None:
    """Used / capacity in GiB. One number alone is none: which of the two it is, nobody can know."""
    found = _PAIR.fullmatch(words)
    if found is None:
        return None
    used, capacity = float(found[1]), float(found[3])
    written = (found[4] or found[2] or "").lower()
    if written.startswith("m") or capacity > MOST_GIB:
        return Reading(
            state="number", value=used / MIB_PER_GIB, capacity=capacity / MIB_PER_GIB, unit="MiB, not GiB"
        )
    return Reading(
        state="number",
        value=used,
        capacity=capacity,
        unit=f"the unit {written} in the cell" if written else None,
    )


def read_config(raw: str, *, known: tuple[str, ...]) -> Configured:
    """`A800单机8卡（1x8）（pretrain）` or `A800 1 node × 8 devices (1x8)`, brackets of either width.

    `known` are device names, looked for at the start first: of H1004机 the device is H100.
    """
    text = folded(plain(raw))
    scale = stage = None
    for words in _IN_BRACKETS.findall(text):
        inside = _SCALE.fullmatch(words.strip())
        if inside:
            scale = inside
        elif re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{1,30}", words.strip()):
            stage = words.strip().lower()
    scale = scale or _SCALE.search(text)
    return Configured(
        device=_device_of(text, known=known),
        num_nodes=int(scale[1]) if scale else None,
        devices_per_node=int(scale[2]) if scale else None,
        stage=stage,
    )


def _device_of(text: str, *, known: tuple[str, ...]) -> str | None:
    for name in sorted(known, key=len, reverse=True):
        if text[: len(name)].lower() == name.lower():
            return name
    end = _CONFIG_WORDS.search(text)
    words = text[: end.start()] if end else text.split(" ", maxsplit=1)[0]
    device = re.sub(r"[ ][0-9]{1,4}[ ]nodes?.*$", "", words[:80]).strip()
    return None if not device or is_placeholder(device) else device


def named_device(text: str, *, known: tuple[str, ...]) -> str | None:
    """The longest known device name that stands in a text as a word of its own."""
    words = folded(text)
    for name in sorted(known, key=len, reverse=True):
        if re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", words, re.IGNORECASE):
            return name
    return None


def settings(text: str) -> dict[str, int]:
    """`MPE=512 LBS=12` → {"MPE": 512, "LBS": 12}; of GAS=1024(GBS=1024=4M tokens) both."""
    found: dict[str, int] = {}
    for key, value in _assigned(text):
        name = _setting(key)
        if name not in (None, "precision") and _COUNT.fullmatch(value):
            found[str(name)] = int(value)
    return found


def set_precision(text: str) -> Precision | None:
    """Of `数据精度=fp16`."""
    return next((precision_of(value) for key, value in _assigned(text) if _setting(key) == "precision"), None)


def unsaid(text: str) -> frozenset[str]:
    """LBS, MPE, GAS, GBS and precision, as far as fix_hp sets them in a way that is not understood: then the
    document's defaults say nothing of this row.
    """
    found: set[str] = set()
    for key, value in _assigned(text):
        name = _setting(key)
        if name is None:
            words = key.lower()
            found.update(fact for part, facts in _TOUCHES.items() if part in words for fact in facts)
        elif precision_of(value) is None if name == "precision" else not _COUNT.fullmatch(value):
            found.add(name)
    return frozenset(found - settings(text).keys())


def _assigned(text: str) -> list[tuple[str, str]]:
    return _ASSIGNED.findall(folded(plain(text)))


def _setting(key: str) -> str | None:
    bare = key.lower().replace("_", "").replace("-", "")
    return next((name for name, spellings in _SETTINGS.items() if bare in spellings), None)


def recompute_of(text: str) -> bool | None:
    found = _RECOMPUTE.search(folded(plain(text)))
    return None if found is None else found[1].lower() != "false"


def defaults_of(text: str) -> dict[tuple[str, str | None], int]:
    """What one line on batch sizes says: (LBS, MPE or GAS; stage, or None for all) → its default."""
    words = folded(plain(text))
    key = _BATCH_KEY.search(words)
    if key is None:
        return {}
    found: dict[tuple[str, str | None], int] = {
        (key[1], (stage or stage_after).lower()): int(value or value_before)
        for stage, value, value_before, stage_after in _PER_STAGE.findall(words)
    }
    default = _DEFAULT.search(words)
    if default:
        found[key[1], None] = int(default[1] or default[2])
    return found


def degrees(text: str) -> dict[str, int]:
    """`TP8PP4DP1` → {"TP": 8, "PP": 4, "DP": 1}; nothing for other words."""
    return {name: int(value) for name, value in _DEGREE.findall(folded(plain(text)).upper())}


def precision_of(text: str) -> Precision | None:
    words = folded(plain(text)).lower()
    return cast("Precision", words) if words in PRECISIONS else None


def case_of(model: str) -> str | None:
    """`deepspeed-llama2-7b` → llama2_7b: the model's name without its framework."""
    words = folded(plain(model)).lower()
    name = re.sub(r"[^a-z0-9.]+", "_", _FRAMEWORK.sub("", words)).strip("_.")
    return name[:60] or None


def nominal_parameters(case: str) -> float | None:
    """The size in a model's name: 7e9 of llama2_7b. A mixture's 8x7b says nothing of what is active."""
    sizes = set(_SIZE.findall(case.lower()))
    return float(sizes.pop()) * 1e9 if len(sizes) == 1 else None


def flops_multiplier(case: str, stage: str | None) -> int:
    """The published rule: 6 FLOPs per parameter and token, 2 where LLaVA trains its projector alone."""
    return 2 if stage == "pretrain" and "llava" in case.lower() else 6
