"""Conversations about images → prepared sets: tokenised once on the host, mapped by the trainer.

    description.py    what LLaVA 1.5's two stages and MMMU are made from: files, folders, template, image form
    layout.py         is all of it there? file by file, before anything is made
    conversations.py  one LLaVA JSON file → conversations, one at a time
    template.py       one conversation → tokens, and which of them are learned. Pure
    preparedset.py    the files of a prepared set, its manifest, and the check that they belong together
    prepare.py        the three above in order
    questions.py      MMMU(val) → prompts, images and, apart from them, the answer key
    proxy.py          small sets of the same form out of nothing but the standard library

docs/data.md describes the files.
"""

from __future__ import annotations

from orchestrator.multimodal.description import DESCRIPTIONS, MMMU, Description
from orchestrator.multimodal.prepare import prepare
from orchestrator.multimodal.preparedset import SetManifest, is_set, verify
from orchestrator.multimodal.proxy import PROXIES, prepare_proxy
from orchestrator.multimodal.questions import prepare_questions

__all__ = [
    "DESCRIPTIONS",
    "MMMU",
    "PROXIES",
    "Description",
    "SetManifest",
    "is_set",
    "prepare",
    "prepare_proxy",
    "prepare_questions",
    "verify",
]
