"""python -m tools.docs makes the pages and says what is wrong with the others; --check writes nothing."""

from __future__ import annotations

import sys

from tools.docs import errors, links, metrics, verbs


def pages() -> dict[str, str]:
    """Every generated page: file name below docs/ → its text."""
    return {"errors.md": errors.page("en"), "errors.zh.md": errors.page("zh"), "cli.md": verbs.page()}


def main(argv: list[str]) -> int:
    check = "--check" in argv
    wrong = []
    if not check:
        for line in errors.adopt():
            print(line)
    for name, text in pages().items():
        path = errors.DOCS / name
        if path.exists() and path.read_text("utf-8") == text:
            continue
        if check:
            wrong.append(f"docs/{name} is not what `make docs` writes")
        else:
            path.write_text(text, "utf-8")
            print(f"wrote docs/{name}")
    wrong += [*errors.misused(), *errors.unwritten(), *verbs.unwritten(), *links.wrong(), *metrics.wrong()]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
