"""python -m tools.docs makes the pages and says what is wrong with the others; --check writes nothing;
--man FOLDER writes man pages.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tools.docs import errors, pages, verbs


def main(argv: list[str]) -> int:
    if "--man" in argv:
        return write_man(Path(argv[argv.index("--man") + 1]))
    if "--check" in argv:
        wrong = [f"docs/{name} is not what `make docs` writes" for name in pages.stale()]
    else:
        wrong = []
        for line in [*errors.adopt(), *(f"wrote docs/{name}" for name in pages.write())]:
            print(line)
    wrong += pages.wrong()
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


def write_man(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in verbs.man_pages().items():
        (folder / name).write_text(text, "utf-8")
    print(f"man -l {folder}/nx8-run.1")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
