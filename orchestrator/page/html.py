"""View → one HTML file. Beside render.py the only home of Jinja2; every text is escaped unless it is markup
that svg.py made or a file of ours.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import BaseLoader, Environment, StrictUndefined, TemplateNotFound

from orchestrator.messages import say
from orchestrator.page.svg import number
from orchestrator.page.words import word

if TYPE_CHECKING:
    from orchestrator.messages import Language
    from orchestrator.page.model import View
    from orchestrator.page.site import IndexView

UPLOT = ("uPlot-1.6.32.min.css", "uPlot-1.6.32.iife.min.js")
#: Columns of the published table that hold words.
WORD_COLUMNS = ("config", "precision", "parallel", "fix_hp")
TAGS = {"zh": "zh-CN", "en": "en"}


class _Files(BaseLoader):
    """The templates beside this module."""

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Any]:  # noqa: ARG002 - Jinja2's signature
        try:
            return file_text(template), template, lambda: True
        except FileNotFoundError:
            raise TemplateNotFound(template) from None


@cache
def file_text(name: str) -> str:
    return files("orchestrator.page.files").joinpath(name).read_text("utf-8")


@cache
def _environment() -> Environment:
    made = Environment(
        loader=_Files(), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.globals.update(w=word, number=number, tags=TAGS, words=WORD_COLUMNS)
    return made


def page_html(view: View, *, index: str | None = None) -> str:
    """The page of one run. `index` is where its head leads to, a relative address."""
    styles = file_text(UPLOT[0]).strip() + "\n" + file_text("page.css").strip()
    scripts = [file_text(UPLOT[1]).strip(), file_text("page.js").strip()]
    both: tuple[Language, ...] = ("zh", "en")
    return _render(
        "page.html.j2",
        styles,
        scripts,
        view=view,
        index=index,
        data=json_for_script(view.data),
        batch_words={lang: say("reference.batch", lang) for lang in both},
        general_words={
            lang: [
                *(say(f"general.{key}", lang) for key in ("name", "value", "remark")),
                say("reference.general", lang),
            ]
            for lang in both
        },
        proof_words={
            lang: [
                *(say(f"proof.{key}", lang) for key in ("name", "held", "detail")),
                say("section.proofs", lang),
            ]
            for lang in both
        },
        yes_no={lang: [say("proof.yes", lang), say("proof.no", lang)] for lang in both},
    )


def index_html(view: IndexView) -> str:
    """The index of a site."""
    return _render("index.html.j2", file_text("page.css").strip(), [file_text("page.js").strip()], view=view)


def policy(styles: str, scripts: list[str]) -> str:
    """What the page may do: run and use exactly these texts, and nothing from anywhere else."""
    allowed = " ".join(f"'sha256-{_sha256(text)}'" for text in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'sha256-{_sha256(styles)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def json_for_script(value: object) -> str:
    """JSON that no parser of HTML takes for anything but text."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    marks: dict[str, str | int | None] = {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
    }
    return text.translate(str.maketrans(marks))


def _render(template: str, styles: str, scripts: list[str], **values: Any) -> str:
    early = file_text("early.js").strip()
    text = (
        _environment()
        .get_template(template)
        .render(
            styles=styles,
            scripts=scripts,
            early=early,
            policy=policy(styles, [early, *scripts]),
            **values,
        )
    )
    # A lone surrogate, from a path that is no UTF-8, has no bytes in UTF-8.
    return text.strip().encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
