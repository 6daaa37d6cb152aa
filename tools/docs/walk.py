"""Runs what a page shows: every ```console block, in a fresh copy of the noun folders, and every file that
the page has a reader write before it.

A file is the fenced block after `<!-- file: PATH -->`. In a console block a line that begins with `$ ` is run
by bash, and the lines up to the next one are what it prints, both streams together; `…` stands for anything,
alone on a line for any number of lines. A command that may fail says so itself: `… || echo "exit $?"`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOUNS = ("cases", "dockerfiles", "cluster")
LIMIT_S = 120
BLOCK = re.compile(
    r"(?:<!-- file: (?P<file>\S+) -->\n)?^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One line of a page, and what it says the line prints."""

    line: int
    text: str
    shown: str


def pages() -> list[Path]:
    """Every page with something to run."""
    return [
        page for page in sorted((ROOT / "docs").glob("*.md")) if "\n```console\n" in page.read_text("utf-8")
    ]


def walk(page: Path) -> list[str]:
    """What on the page is not so, one text each; empty when all of it is."""
    text = page.read_text("utf-8")
    with tempfile.TemporaryDirectory(prefix="nx8-docs-") as folder:
        home = Path(folder) / "nx8"
        for noun in NOUNS:
            shutil.copytree(ROOT / noun, home / noun, ignore=shutil.ignore_patterns("__pycache__"))
        found = []
        for block in BLOCK.finditer(text):
            if block["file"]:
                path = home / block["file"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block["text"], "utf-8")
            elif block["kind"] == "console":
                first = text.count("\n", 0, block.start("text")) + 1
                found += [said for one in commands(block["text"], first) if (said := _run(one, page, home))]
        return found


def commands(text: str, first_line: int) -> list[Command]:
    """The commands of a console block. Raises ValueError for one that begins with output."""
    found: list[Command] = []
    for number, line in enumerate(text.splitlines(), first_line):
        if line.startswith("$ "):
            found.append(Command(line=number, text=line[2:], shown=""))
        elif not found:
            raise ValueError(f"line {number}: a console block begins with a command")
        else:
            last = found[-1]
            found[-1] = Command(line=last.line, text=last.text, shown=f"{last.shown}{line}\n")
    return found


def matches(shown: str, seen: str) -> bool:
    """Whether `seen` is what a page shows; trailing spaces do not count."""
    parts = ["(?:[^\n]*\n)*" if line == "…" else _line(line) for line in shown.rstrip().splitlines()]
    return (
        re.fullmatch("".join(parts), "".join(f"{line.rstrip()}\n" for line in seen.rstrip().splitlines()))
        is not None
    )


def _line(line: str) -> str:
    return "[^\n]*".join(re.escape(part) for part in line.rstrip().split("…")) + "\n"


def _run(command: Command, page: Path, home: Path) -> str:
    """What is wrong with it; empty when nothing is."""
    environment = {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        "HOME": str(home.parent),
        "LANG": "C.UTF-8",
    }
    argv = ("bash", "-c", f"set -o pipefail; {command.text}")
    where = f"docs/{page.name}:{command.line}: $ {command.text}"
    try:
        done = subprocess.run(
            argv,
            check=False,
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return f"{where}\nhas not ended after {LIMIT_S} s"
    if done.returncode:
        return f"{where}\nexits {done.returncode}:\n{done.stdout}"
    return "" if matches(command.shown, done.stdout) else f"{where}\nprints:\n{done.stdout}"


def main() -> int:
    wrong = [said for page in pages() for said in walk(page)]
    for said in wrong:
        print(said, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
