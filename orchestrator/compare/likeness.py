"""Whether two sides are alike, and if so their ratios; otherwise every difference by name. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.compare.sides import MFU, SPEED, Side, same_case
from orchestrator.messages import Language, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


RATIOS = (SPEED, MFU)
#: What must be known of both sides, and what counts only where both say it: published tables leave it out.
REQUIRED = ("case", "scale", "LBS", "MPE", "GAS", "GBS", "precision")
WHERE_SAID = ("compute dtype", "recompute")
#: May differ between like and like, and is said.
REMARKED = ("parallel",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A message of the catalogue with its values: `column` is column names with blanks between, an empty
    value is what a side does not say.
    """

    key: str
    values: dict[str, str]

    def text(self, language: Language) -> str:
        values = {key: value or say("compare.unsaid", language) for key, value in self.values.items()}
        if "column" in values:
            names = (say(f"column.{name}", language) for name in values["column"].split())
            values["column"] = say("list", language).join(names)
        return say(self.key, language, **values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A side beside the first: `ratios` by metric where there is one, `differences` why there is none."""

    side: Side
    differences: tuple[Note, ...]
    ratios: dict[str, float | None]
    doubts: tuple[Note, ...] = ()
    remarks: tuple[Note, ...] = ()


def compared(sides: Sequence[Side]) -> tuple[Compared, ...]:
    """Every side beside the first. Pure."""
    first = sides[0]
    return (
        Compared(side=first, differences=(), ratios=dict.fromkeys(RATIOS)),
        *(_beside(first, side, number) for number, side in enumerate(sides[1:], start=2)),
    )


def _beside(first: Side, side: Side, number: int) -> Compared:
    differences = tuple(_differences(first, side))
    ratios: dict[str, float | None] = dict.fromkeys(RATIOS)
    doubts: list[Note] = []
    if not differences:
        for column in RATIOS:
            why = list(_doubts(first, side, column, number))
            one, other = first.figures[column], side.figures[column]
            if (
                not why
                and one.value
                and other.value is not None
                and one.doubt is None
                and other.doubt is None
            ):
                ratio = other.value / one.value
                ratios[column] = ratio if math.isfinite(ratio) else None
            doubts += why
    return Compared(
        side=side,
        differences=differences,
        ratios=ratios,
        doubts=tuple(doubts),
        remarks=tuple(_remarks(first, side, number)),
    )


def _differences(first: Side, side: Side) -> Iterator[Note]:
    """All that makes two sides unlike."""
    if first.rehearsal or side.rehearsal:
        yield Note(key="compare.rehearsal", values={})
    yield from _unlike("proxy", first.proxy or "no", side.proxy or "no")
    if first.proxy == side.proxy and None not in (first.parameters, side.parameters):
        yield from _unlike("N", f"{first.parameters:g}", f"{side.parameters:g}")
    yield from _unlike("stage", first.stage or "none", side.stage or "none")
    for name in REQUIRED:
        one, other = first.facts[name], side.facts[name]
        silent = [said for said, value in (("1", one), ("2", other)) if value is None]
        if silent:
            who = "each" if len(silent) == 2 else "first" if silent == ["1"] else "other"
            yield Note(key="compare.not_said", values={"name": name, "side": who})
        elif name == "case":
            yield from _unlike(name, one, other, same=same_case(one, other))
        else:
            yield from _unlike(name, one, other)
    for name in WHERE_SAID:
        one, other = _where_said(name, first, side)
        if one is not None and other is not None:
            yield from _unlike(name, one, other)
    if _other_clock(first) != _other_clock(side):
        yield Note(key="compare.clock", values={})


def _where_said(name: str, first: Side, side: Side) -> tuple[str | None, str | None]:
    """What both say, in words that can be held against each other: beside a published row, recomputation of
    a run is yes or no too.
    """
    said = first.facts[name], side.facts[name]
    if name != "recompute" or not (first.published or side.published):
        return said
    one, other = ({"none": "no", "selective": "yes", "full": "yes"}.get(word or "", word) for word in said)
    return one, other


def _unlike(name: str, one: str | None, other: str | None, *, same: bool | None = None) -> Iterator[Note]:
    if not (one == other if same is None else same):
        yield Note(key="compare.differs", values={"name": name, "one": str(one), "other": str(other)})


def _other_clock(side: Side) -> bool:
    """Published LLaVA figures are of the whole process and of padded lengths."""
    return side.published and "llava" in (side.facts["case"] or "")


def _doubts(first: Side, side: Side, column: str, number: int) -> Iterator[Note]:
    """Why a ratio of this metric would say nothing, though the rows are alike."""
    if column != MFU or first.figures[MFU].value is None or side.figures[MFU].value is None:
        return
    if first.flops_per_token != side.flops_per_token:
        both = " ≠ ".join(
            "?" if one is None else f"{one:g}" for one in (side.flops_per_token, first.flops_per_token)
        )
        yield _doubt(number, column, f"FLOPs per token {both}")
    if first.device == side.device and None not in (first.peak, side.peak) and first.peak != side.peak:
        yield _doubt(number, column, f"peak {side.peak} ≠ {first.peak} TFLOPS")


def _doubt(number: int, column: str, reason: str) -> Note:
    return Note(key="compare.doubtful", values={"number": str(number), "column": column, "reason": reason})


def _remarks(first: Side, side: Side, number: int) -> Iterator[Note]:
    for name in (*REMARKED, *WHERE_SAID):
        one, other = _where_said(name, first, side)
        if name in WHERE_SAID and (one is None) == (other is None):
            continue
        if one != other:
            values = {"number": str(number), "name": name, "other": other or "", "one": one or ""}
            yield Note(key="compare.remark", values=values)
    both = first.figures["acc_mmmu"].value is not None and side.figures["acc_mmmu"].value is not None
    if both and first.published != side.published:
        yield Note(key="compare.decoding", values={})
