"""What the nodes, images and ranks of a result say of themselves, as texts of 环境配置. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.messages import MESSAGES, Language, say, translated
from orchestrator.report.columns import NOT_APPLICABLE, Notes, TableCell

#: What a rehearsal's stand-ins say of themselves, and no accelerator did.
STAND_IN = ("accelerator_model", "driver", "firmware")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The environment of `cells`, the cells of one case. `notes` collects why something is not known."""

    result: Mapping[str, Any]
    cells: Sequence[Mapping[str, Any]]
    notes: Notes
    language: Language

    @property
    def machines(self) -> dict[str, Mapping[str, Any]]:
        """The nodes' facts by name; where the run needed no nodes, those of this machine."""
        environment = self.result["environment"]
        nodes = environment.get("nodes") or {}
        if nodes:
            return {str(name): node for name, node in nodes.items() if isinstance(node, dict)}
        return {"": environment["host"]} if isinstance(environment["host"], dict) else {}

    @property
    def is_local(self) -> bool:
        return bool(self.result["run"].get("transport") == "local")

    def hardware(self, row: str) -> TableCell:
        """机器型号, 加速卡型号, CPU型号, 多机网络类型、带宽."""
        if row == "network":
            return self._network()
        if row == "accelerator_model" and not self._known(row):
            seen = {rank["device_name"] for cell in self.cells for rank in cell["ranks"]} - {None}
            if seen and not self._on_cpu:
                return TableCell(text=say("list", self.language).join(sorted(seen)))
        return self._fact(row)

    def software(self, row: str) -> TableCell:
        """One row of 软件环境 whose value is a fact of the nodes or the name of an image."""
        return self._images() if row == "image" else self._fact(row)

    @property
    def _on_cpu(self) -> bool:
        return all(cell["device_type"] == "cpu" for cell in self.cells)

    def _known(self, field: str) -> bool:
        return any(machine.get(field) for machine in self.machines.values())

    def version(self, name: str, shown: str) -> TableCell:
        """The version of `name`, which the report calls `shown`: what the ranks said, else what the image or
        the nodes hold.
        """
        sources = [
            [(f"rank {rank['rank']}", rank["versions"]) for cell in self.cells for rank in cell["ranks"]],
            [(tag, one.get("versions") or {}) for tag, one in self._image_facts().items()],
            [(node, one.get("versions") or {}) for node, one in self.machines.items()],
        ]
        for source in sources:
            found = {str(versions[name]): where for where, versions in source if versions.get(name)}
            if found:
                return TableCell(text=say("list", self.language).join(found))
        reasons = (
            one.get("unknown") or {} for one in (*self._image_facts().values(), *self.machines.values())
        )
        return self._unknown(shown, self._why(next((one[name] for one in reasons if one.get(name)), None)))

    def _fact(self, field: str) -> TableCell:
        """The value of `field`, once where all nodes agree, else each with the nodes that have it."""
        found: dict[str, list[str]] = {}
        reasons: list[str | None] = []
        for name, machine in self.machines.items():
            if machine.get(field):
                found.setdefault(str(machine[field]), []).append(name)
            else:
                reasons.append((machine.get("unknown") or {}).get(field))
        if not found:
            return self._unknown(field, self._why(next((one for one in reasons if one), None), field))
        text = self._joined(found)
        if field in STAND_IN and any(cell.get("rehearsal") for cell in self.cells):
            text += say("config.rehearsal", self.language)
        return TableCell(text=text)

    def _joined(self, found: Mapping[str, Sequence[str]]) -> str:
        if len(found) == 1 and len(next(iter(found.values()))) == len(self.machines):
            return next(iter(found))
        named = (f"{text} ({', '.join(nodes)})" for text, nodes in found.items())
        return say("semicolon", self.language).join(named)

    def _network(self) -> TableCell:
        """As published: kind, then how many links of which rate."""
        found: dict[str, list[str]] = {}
        reasons: list[str | None] = []
        for name, machine in self.machines.items():
            links = machine.get("network") or ()
            if links:
                found.setdefault(self._links(links), []).append(name)
            if not links or any(link.get("rate_gbps") is None for link in links):
                reasons.append((machine.get("unknown") or {}).get("network"))
        if found and not reasons:
            return TableCell(text=self._joined(found))
        reason = self._why(next((one for one in reasons if one), None), "network")
        unknown = self._unknown("network", reason)
        return TableCell(text=self._joined(found), notes=unknown.notes) if found else unknown

    def _links(self, links: Sequence[Mapping[str, Any]]) -> str:
        counted: dict[tuple[str, float | None], int] = {}
        for link in links:
            kind = (str(link["kind"]), link.get("rate_gbps"))
            counted[kind] = counted.get(kind, 0) + int(link.get("links") or 1)
        texts = [
            say(
                "network.no_rate" if rate is None else "network.rate",
                self.language,
                kind=kind,
                count="" if count == 1 else f"{count}x",
                rate="" if rate is None else f"{rate:g}",
            )
            for (kind, rate), count in counted.items()
        ]
        return say("semicolon", self.language).join(texts)

    def _image_facts(self) -> dict[str, Mapping[str, Any]]:
        """Image tag → what is known of it; an older result has its id alone."""
        images = self.result["environment"].get("images") or {}
        return {
            str(tag): one if isinstance(one, dict) else {"id": one, "versions": {}}
            for tag, one in images.items()
        }

    def _images(self) -> TableCell:
        images = self._image_facts()
        if not images:
            return self._unknown("image", self._why(None, "docker"))
        texts = [f"{tag} ({one['id']})" if one.get("id") else tag for tag, one in images.items()]
        return TableCell(text=say("semicolon", self.language).join(texts))

    def _why(self, reason: str | None, field: str = "") -> str:
        """`reason` in the report's language, or ours where the result gives none."""
        if reason:
            return translated(str(reason), self.language)
        if field in ("accelerator_model", "driver", "firmware") and self._on_cpu:
            return say("reason.cpu", self.language)
        if field in ("docker", "network") and self.is_local:
            key = "reason.no_container" if field == "docker" else "reason.one_machine"
            return say(key, self.language)
        return say("reason.not_recorded", self.language)

    def _unknown(self, row: str, reason: str) -> TableCell:
        what = say(f"entry.{row}", self.language) if f"entry.{row}" in MESSAGES else row
        note = self.notes.number(say("note.unknown", self.language, what=what, reason=reason))
        return TableCell(text=NOT_APPLICABLE, notes=(note,))
