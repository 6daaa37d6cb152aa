"""One conversation → tokens, and which of them are learned. Pure.

As LLaVA 1.5 defines its templates "plain" and "v1" (conversation.py and train.py there), token for token with
the tokenizer of Llama: BOS once, each piece of text between an image or an end-of-text token encoded for
itself. Learned are the assistant's words and the end-of-text token after them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.multimodal.conversations import PLACEHOLDER, Conversation, MisfitError
from orchestrator.multimodal.description import IMAGE_TOKEN

if TYPE_CHECKING:
    from orchestrator.multimodal.description import Template
    from orchestrator.tokenizers import Tokenizer

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """`tokens` with one IMAGE_TOKEN an image; `learned` has 1 where loss is taken on that token, else 0."""

    tokens: list[int]
    learned: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What is left within the model's length; `length` counts an image's positions."""

    encoded: Encoded
    length: int
    cut: bool
    image_lost: bool


def suits(conversation: Conversation, *, template: Template) -> None:
    """Raises MisfitError for a conversation that the template has no place for."""
    turns, with_image = conversation.turns, conversation.image is not None
    if template == "plain" and not (with_image and len(turns) == 2 and PLACEHOLDER in turns[0][1]):
        raise MisfitError("this stage wants an image, one question that shows it and one caption")


def encode(conversation: Conversation, *, template: Template, tokenizer: Tokenizer) -> Encoded:
    """Raises MisfitError for a conversation that the template, or the tokenizer, has no place for."""
    suits(conversation, template=template)
    turns = conversation.turns
    with_image = conversation.image is not None
    if template == "v1-prompt":
        return _prompt(turns, with_image=with_image, tokenizer=tokenizer)
    if template == "plain":
        return _plain(turns, tokenizer=tokenizer)
    if with_image:
        turns = tuple((role, _image_first(text)) for role, text in turns)
    return _v1(turns, with_image=with_image, tokenizer=tokenizer)


def _image_first(text: str) -> str:
    """The placeholder on a line of its own before the words, wherever it stood."""
    if PLACEHOLDER not in text:
        return text
    return f"{PLACEHOLDER}\n{text.replace(PLACEHOLDER, '').strip()}".strip()


def _plain(turns: tuple[tuple[str, str], ...], *, tokenizer: Tokenizer) -> Encoded:
    """Image, caption, line feed: what the human asks is left away."""
    lead = [*_begin(tokenizer), IMAGE_TOKEN]
    caption = tokenizer.plain(turns[1][1] + "\n")
    return Encoded(tokens=lead + caption, learned=[0] * len(lead) + [1] * len(caption))


def _v1(turns: tuple[tuple[str, str], ...], *, with_image: bool, tokenizer: Tokenizer) -> Encoded:
    if tokenizer.eos is None:
        raise MisfitError("the template v1 ends answers with </s>, which this tokenizer does not have")
    tokens = _begin(tokenizer)
    learned = [0] * len(tokens)
    lead = SYSTEM + " "
    for at in range(0, len(turns), 2):
        human = f"{lead}USER: {turns[at][1]} " if turns[at][1] else f"{lead}USER:"
        answer = turns[at + 1][1] if at + 1 < len(turns) else None
        words = human if answer is None else f"{human}ASSISTANT:" + (f" {answer}" if answer else "")
        piece = _with_image(words, with_image=with_image, tokenizer=tokenizer)
        tokens += piece
        if answer:
            asked = _with_image(f"{human}ASSISTANT: ", with_image=with_image, tokenizer=tokenizer)
            # The space before the answer belongs to its first word, and stands alone only here.
            num_asked = min(len(asked) - 1, len(piece))
            tokens.append(tokenizer.eos)
            learned += [0] * num_asked + [1] * (len(piece) - num_asked) + [1]
        else:
            learned += [0] * len(piece)
        lead = ""
    return Encoded(tokens=tokens, learned=learned)


def _prompt(turns: tuple[tuple[str, str], ...], *, with_image: bool, tokenizer: Tokenizer) -> Encoded:
    """One question of v1 up to where the assistant's words begin; nothing is learned."""
    words = f"{SYSTEM} USER: {turns[0][1]} ASSISTANT:"
    tokens = _begin(tokenizer) + _with_image(words, with_image=with_image, tokenizer=tokenizer)
    return Encoded(tokens=tokens, learned=[0] * len(tokens))


def _begin(tokenizer: Tokenizer) -> list[int]:
    return [] if tokenizer.bos is None else [tokenizer.bos]


def _with_image(text: str, *, with_image: bool, tokenizer: Tokenizer) -> list[int]:
    if not with_image:
        return tokenizer.plain(text)  # people also write about <image>
    before, *after = text.split(PLACEHOLDER)
    tokens = tokenizer.plain(before)
    for part in after:
        tokens += [IMAGE_TOKEN, *tokenizer.plain(part)]
    return tokens


def fit(encoded: Encoded, *, image_positions: int, limit: int) -> Fitted:
    """Cut to `limit` positions. An image that would be cut, and all after it, is left away as a whole: half
    an image means nothing to the model.
    """
    tokens = encoded.tokens
    image_at = tokens.index(IMAGE_TOKEN) if IMAGE_TOKEN in tokens else None
    more = image_positions - 1 if image_at is not None else 0
    if len(tokens) + more <= limit:
        return Fitted(encoded=encoded, length=len(tokens) + more, cut=False, image_lost=False)
    lost = image_at is not None and image_at + image_positions > limit
    keep = min(image_at or 0, limit) if lost else limit - more
    cut = Encoded(tokens=tokens[:keep], learned=encoded.learned[:keep])
    return Fitted(encoded=cut, length=keep + (0 if lost else more), cut=True, image_lost=lost)
