"""A stage's conversations and images → a prepared set, in two passes: look at everything, then make it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError
from orchestrator.multimodal.conversations import Conversation, MisfitError, misfit, read
from orchestrator.multimodal.layout import Named, check
from orchestrator.multimodal.preparedset import (
    SetForm,
    SetManifest,
    SetWriter,
    new_folder,
    refuse_taken,
    stored,
)
from orchestrator.multimodal.template import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from orchestrator.errors import Problem
    from orchestrator.multimodal.description import Description
    from orchestrator.tokenizers import Tokenizer

#: Between two words about how far it is.
SAMPLES_A_WORD = 50_000


def prepare(
    root: Path,
    description: Description,
    *,
    name: str,
    tokenizer: Tokenizer,
    folder: Path,
    say: Callable[[str], None] = lambda _: None,
) -> SetManifest:
    """Makes `folder`/`name` from what lies under `root`; images stay where they are.

    Raises ConfigError: what layout.check does, E719 for conversations that the template has no place for,
    E720 for a name that is taken.
    """
    source = root / description.source
    refuse_taken(folder, name)
    num_samples = check(root, description)
    say(f"{num_samples:,} samples, every image there")
    with new_folder(folder, name) as beside:
        return write_set(
            _told(read(source), num_samples, say),
            description,
            name=name,
            tokenizer=tokenizer,
            folder=beside,
            images=root / description.images,
            source=source,
        )


def write_set(
    samples: Iterable[Conversation | Problem],
    description: Description,
    *,
    name: str,
    tokenizer: Tokenizer,
    folder: Path,
    images: Path,
    source: Path,
    images_in_set: bool = False,
) -> SetManifest:
    """Writes the files of a set into the empty `folder`."""
    form = SetForm(
        kind="conversations",
        name=name,
        dataset=description.dataset,
        template=description.template,
        image=description.image,
        image_positions=description.image_positions,
        model_max_length=description.model_max_length,
        images_in_set=images_in_set,
    )
    problems = Named()
    count = 0
    with SetWriter(folder, form=form, tokenizer=tokenizer, images=images) as writer:
        for sample in samples:
            count += 1
            if not isinstance(sample, Conversation):
                raise ConfigError(sample)  # it was whole when it was checked
            try:
                encoded = encode(sample, template=description.template, tokenizer=tokenizer)
            except MisfitError as error:
                problems.add(misfit(source, sample.number, str(error)))
                continue
            writer.add(encoded, image=sample.image, words=sample.words)
        problems.raise_any(f"{count} samples")
        return writer.finish(source=stored(source))


def _told(
    samples: Iterable[Conversation | Problem], count: int, say: Callable[[str], None]
) -> Iterable[Conversation | Problem]:
    for number, sample in enumerate(samples, 1):
        yield sample
        if number % SAMPLES_A_WORD == 0:
            say(f"{number:,} of {count:,}")
