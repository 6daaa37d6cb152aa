"""Small sets of the published form out of nothing but the standard library, for machines without the data.

Each image is one coloured shape on a coloured ground, and all words are about it, so that a small model has
something to learn. Tokens are bytes.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

from orchestrator.multimodal.conversations import read
from orchestrator.multimodal.description import Description, ImageForm, Questions
from orchestrator.multimodal.prepare import write_set
from orchestrator.multimodal.preparedset import IMAGE_FOLDER, SetManifest, new_folder
from orchestrator.multimodal.questions import Question, key_file, write_questions
from orchestrator.tokenizers import Bytes

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 32
IMAGE = ImageForm(encoding="rgb", fit="crop", side=SIDE)
#: (32 / 8)²: patches of 8 × 8.
POSITIONS = 16
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (40, 60, 220),
    "yellow": (230, 220, 50),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
SHAPES = ("square", "disc", "cross")
SOURCE = "source.json"

PRETRAIN = Description(
    dataset="shapes and their captions",
    template="plain",
    source=SOURCE,
    images=IMAGE_FOLDER,
    folders=(IMAGE_FOLDER,),
    published_samples=256,
    image=IMAGE,
    image_positions=POSITIONS,
    model_max_length=128,
)
FINETUNE = Description(
    dataset="shapes and talks about them",
    template="v1",
    source=SOURCE,
    images=IMAGE_FOLDER,
    folders=(IMAGE_FOLDER,),
    published_samples=320,
    image=IMAGE,
    image_positions=POSITIONS,
    model_max_length=512,
)
TEST = Questions(
    dataset="shapes and questions about them",
    root=".",
    subjects=("Colour", "Ground", "Shape"),
    published_questions=60,
    image=IMAGE,
    image_positions=POSITIONS,
)
#: By the name of the set.
PROXIES: dict[str, Description | Questions] = {
    "llava-proxy-pretrain": PRETRAIN,
    "llava-proxy-finetune": FINETUNE,
    "mmmu-proxy": TEST,
}


class Draw:
    """Choices that every Python makes alike: random() alone is promised to stay as it is."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random  # noqa: S311 - no secret

    def below(self, count: int) -> int:
        return int(self._random() * count)

    def one_of(self, items: Any) -> Any:
        kept = tuple(items)
        return kept[self.below(len(kept))]


def prepare_proxy(name: str, *, folder: Path) -> SetManifest:
    """Makes `folder`/`name`, a key of PROXIES; the same bytes on every machine.

    Raises ConfigError (E720) when it is there, CellError (E701).
    """
    description = PROXIES[name]
    with new_folder(folder, name) as beside:
        if isinstance(description, Questions):
            return _questions(description, name=name, folder=beside, key=key_file(folder, name))
        return _talks(description, name=name, folder=beside)


def _talks(description: Description, *, name: str, folder: Path) -> SetManifest:
    draw, items = Draw(seed=17), []
    (folder / IMAGE_FOLDER).mkdir()
    for number in range(description.published_samples):
        if description.template == "v1" and number % 4 == 3:
            items.append(_sum(draw, number))
            continue
        shape, colour, ground = picture = _picture(draw)
        image = f"{number:06d}.rgb"
        (folder / IMAGE_FOLDER / image).write_bytes(drawn(picture, draw))
        talk = (
            [("human", "Describe the image.\n<image>"), ("gpt", f"a {colour} {shape} on {ground}")]
            if description.template == "plain"
            else _talk(draw, shape, colour, ground)
        )
        items.append(_item(number, talk, image=image))
    (folder / SOURCE).write_text(json.dumps(items, indent=1), encoding="utf-8", newline="\n")
    return write_set(
        read(folder / SOURCE),
        description,
        name=name,
        tokenizer=Bytes(),
        folder=folder,
        images=folder / IMAGE_FOLDER,
        source=folder / SOURCE,
        images_in_set=True,
    )


def _talk(draw: Draw, shape: str, colour: str, ground: str) -> list[tuple[str, str]]:
    rounds = [
        ("What shape is it?", f"A {shape}."),
        ("What colour is it?", f"{colour.capitalize()}."),
        ("What is behind it?", f"A {ground} ground, all around the {shape}."),
    ]
    turns = [
        turn for asked, said in rounds[: 1 + draw.below(3)] for turn in (("human", asked), ("gpt", said))
    ]
    return [("human", f"<image>\n{turns[0][1]}"), *turns[1:]]


def _sum(draw: Draw, number: int) -> dict[str, Any]:
    one, other = draw.below(50), draw.below(50)
    return _item(number, [("human", f"What is {one} plus {other}?"), ("gpt", f"{one + other}.")], image=None)


def _item(number: int, talk: list[tuple[str, str]], *, image: str | None) -> dict[str, Any]:
    item: dict[str, Any] = {"id": f"{number:06d}"}
    if image is not None:
        item["image"] = image
    item["conversations"] = [{"from": role, "value": text} for role, text in talk]
    return item


def _picture(draw: Draw) -> tuple[str, str, str]:
    shape, colour = draw.one_of(SHAPES), draw.one_of(COLOURS)
    return shape, colour, draw.one_of(name for name in COLOURS if name != colour)


def drawn(picture: tuple[str, str, str], draw: Draw) -> bytes:
    """SIDE × SIDE × 3 bytes: the shape somewhere in the middle, a little noise on all."""
    shape, colour, ground = picture
    middle_y, middle_x, half = 12 + draw.below(9), 12 + draw.below(9), 5 + draw.below(4)
    noise = [draw.below(11) - 5 for _ in range(16)]
    pixels = bytearray()
    for y in range(SIDE):
        for x in range(SIDE):
            inside = _inside(shape, abs(y - middle_y), abs(x - middle_x), half)
            shade = noise[(7 * y + 3 * x) % len(noise)]
            pixels += bytes(
                min(255, max(0, value + shade)) for value in COLOURS[colour if inside else ground]
            )
    return bytes(pixels)


def _inside(shape: str, y: int, x: int, half: int) -> bool:
    if shape == "disc":
        return y * y + x * x <= half * half
    if shape == "cross":
        return max(y, x) <= half and min(y, x) <= half // 3
    return max(y, x) <= half


def _questions(test: Questions, *, name: str, folder: Path, key: Path) -> SetManifest:
    draw = Draw(seed=23)
    found = [_question(draw, test, number) for number in range(test.published_questions)]
    return write_questions(found, test, name=name, tokenizer=Bytes(), folder=folder, key=key, source=None)


def _question(draw: Draw, test: Questions, number: int) -> Question:
    subject = test.subjects[number % len(test.subjects)]
    shape, colour, ground = picture = _picture(draw)
    right, all_options, asked = {
        "Colour": (colour, tuple(COLOURS), "What colour is the shape?"),
        "Ground": (ground, tuple(COLOURS), "What colour is the ground?"),
        "Shape": (shape, SHAPES, "What shape is it?"),
    }[subject]
    is_open = number % 10 == 9
    options = () if is_open else tuple(all_options)
    return Question(
        id=f"proxy_{subject}_{number}",
        subject=subject,
        kind="open" if is_open else "multiple-choice",
        text=asked,
        options=options,
        answers=(right,) if is_open else (chr(ord("A") + options.index(right)),),
        image=drawn(picture, draw),
        image_suffix=".rgb",
        num_images=1,
    )
