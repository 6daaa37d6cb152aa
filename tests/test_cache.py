"""The name of the lab's base image changes with what goes into it, and with nothing else."""

from __future__ import annotations

from pathlib import Path

from orchestrator.lab.cache import Sources, ready
from orchestrator.lab.cache import _store as store  # the name under which the image is looked for

ROOT = Path(__file__).parents[1]


def named(folder: Path, text: str) -> str:
    constraints = folder / "constraints.txt"
    constraints.write_text(text)
    return store(Sources(folder=folder, constraints=constraints)).name


def test_a_pin_of_a_package_in_the_image_makes_another_image(tmp_path: Path) -> None:
    pins = (ROOT / "constraints.txt").read_text()
    before = named(tmp_path, pins)
    assert named(tmp_path, pins.replace("torch==", "torch==9.")) != before
    assert named(tmp_path, pins + "another-package==1.0\n") != before


def test_a_comment_or_a_pin_of_a_tool_that_is_not_in_it_keeps_it(tmp_path: Path) -> None:
    pins = (ROOT / "constraints.txt").read_text()
    before = named(tmp_path, pins)
    tools = ("playwright", "greenlet", "axe-playwright-python")
    assert all(f"\n{tool}==" in pins for tool in tools)
    without = "\n".join(line for line in pins.splitlines() if line.split("==")[0] not in tools)
    assert named(tmp_path, without) == before
    assert named(tmp_path, pins.replace("playwright==1", "Playwright==2")) == before
    assert named(tmp_path, "# why\n\n" + pins) == before
    assert ready(Sources(folder=tmp_path, constraints=ROOT / "constraints.txt")) is None
