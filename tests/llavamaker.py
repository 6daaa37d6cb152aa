"""Small folders of the published LLaVA and MMMU layouts."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.multimodal import DESCRIPTIONS, MMMU

if TYPE_CHECKING:
    from pathlib import Path

#: Three subjects instead of thirty.
QUESTIONS = replace(MMMU, subjects=("Accounting", "Art", "Math"))
FOLDERS = (
    "coco/train2017",
    "gqa/images",
    "ocr_vqa/images",
    "textvqa/train_images",
    "vg/VG_100K",
    "vg/VG_100K_2",
)


def png(width: int, height: int, *, seed: int) -> bytes:
    """An image whose every pixel follows from its place and `seed`."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(
        b"\0" + bytes((seed * 7 + x * 3 + y * 5 + 40 * c) % 256 for x in range(width) for c in range(3))
        for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def talk(*texts: str, image: str | None = None, number: int = 0) -> dict[str, Any]:
    """One item of a LLaVA file; `texts` are the human's and the assistant's in turn."""
    item: dict[str, Any] = {"id": f"{number:09d}"}
    if image is not None:
        item["image"] = image
    item["conversations"] = [
        {"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(texts)
    ]
    return item


def pretrain_items(count: int) -> list[dict[str, Any]]:
    return [
        talk(
            "Render a summary.\n<image>" if number % 2 else "<image>\nWhat is this?",
            f"a photo of thing number {number}",
            image=f"{number % 10:05d}/{number:09d}.png",
            number=number,
        )
        for number in range(count)
    ]


def finetune_items(count: int) -> list[dict[str, Any]]:
    """Every third without an image, the rest over all six folders; of many lengths."""
    items = []
    for number in range(count):
        asked, said = f"Tell {'more ' * (number % 7)}about it.", f"It is {'very ' * (number % 11)}odd."
        if number % 3 == 2:
            items.append(talk(asked, said, "And why?", "No idea.", number=number))
        else:
            image = f"{FOLDERS[number % 6]}/{number:06d}.png"
            items.append(talk(f"<image>\n{asked}", said, "Sure?", "Yes.", image=image, number=number))
    return items


def layout(root: Path, stage: str, items: list[dict[str, Any]]) -> Path:
    """Writes the stage's folders, conversations and images below `root`."""
    description = DESCRIPTIONS[stage]
    for folder in description.folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / description.source).write_text(json.dumps(items, indent=1), encoding="utf-8")
    for number, item in enumerate(items):
        if "image" in item:
            path = root / description.images / item["image"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(24 + number % 30, 40 - number % 13, seed=number))
    return root


def question_rows(subject: str, count: int) -> list[dict[str, Any]]:
    """Rows with the published columns; images as Parquet holds them. Every fourth asks for a short answer."""
    rows = []
    for number in range(1, count + 1):
        is_open = number % 4 == 0
        rows.append(
            {
                "id": f"validation_{subject}_{number}",
                "question": f"What does <image 1> show in {subject}?",
                "options": "[]" if is_open else "['a cat', \"a dog's ear\", '<image 2>', '$5,000']",
                "explanation": "",
                "image_1": {"bytes": png(20, 10 + number, seed=number), "path": f"{number}_1.png"},
                "image_2": {"bytes": png(8, 8, seed=0), "path": "x.png"} if number == 1 else None,
                "img_type": "['Photographs']",
                "answer": "['24/7', '3.429']" if is_open else "ABCD"[number % 4],
                "question_type": "open" if is_open else "multiple-choice",
                "subfield": "None",
            }
        )
    return rows


def questions_as_lines(root: Path, count: int = 5) -> Path:
    """The folder form: validation.jsonl, images beside it."""
    for subject in QUESTIONS.subjects:
        folder = root / QUESTIONS.root / subject
        (folder / "images").mkdir(parents=True)
        lines = []
        for row in question_rows(subject, count):
            for name in ("image_1", "image_2"):
                if row[name] is not None:
                    file = f"images/{row['id']}_{name}.png"
                    (folder / file).write_bytes(row[name]["bytes"])
                    row[name] = file
            lines.append(json.dumps(row))
        (folder / "validation.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def questions_as_parquet(root: Path, count: int = 5) -> Path:
    """The published form. Needs pyarrow."""
    import pyarrow as pa
    from pyarrow import parquet

    for subject in QUESTIONS.subjects:
        folder = root / QUESTIONS.root / subject
        folder.mkdir(parents=True)
        table = pa.Table.from_pylist(question_rows(subject, count))
        parquet.write_table(table, folder / "validation-00000-of-00001.parquet")
    return root
