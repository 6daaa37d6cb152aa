"""What turns text into tokens and back: bytes, sentencepiece's models, Hugging Face's tokenizer.json."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

from orchestrator.errors import ConfigError, Problem


class Tokenizer(Protocol):
    """`bos` and `eos` begin and end a text, `pad` fills up a batch. `encode` turns a document into tokens,
    `plain` a piece of text, without any token that stands for no character; `decode` is its way back.
    """

    name: str
    sha256: str | None
    vocab_size: int
    bos: int | None
    eos: int | None
    pad: int

    def encode(self, text: bytes) -> bytes | list[int]: ...

    def plain(self, text: str) -> list[int]: ...

    def decode(self, tokens: list[int]) -> str: ...


class Bytes:
    """Every byte of the text is a token; ASCII's "end of text" ends one."""

    name: str = "bytes"
    sha256: str | None = None
    vocab_size: int = 256
    bos: int | None = None
    eos: int | None = 3
    pad: int = 0

    def encode(self, text: bytes) -> bytes | list[int]:
        return text

    def plain(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    def decode(self, tokens: list[int]) -> str:
        return bytes(token for token in tokens if token not in (self.eos, self.pad)).decode(
            "utf-8", "replace"
        )


class SentencePiece:
    """A sentencepiece model file; each document starts with the model's own BOS, as LlamaTokenizer does by
    default.
    """

    def __init__(self, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        content = path.read_bytes()
        self._model = SentencePieceProcessor(model_proto=content)
        self.bos: int | None = self._model.bos_id() if self._model.bos_id() >= 0 else None
        self.eos: int | None = self._model.eos_id() if self._model.eos_id() >= 0 else None
        self.pad: int = max(0, self._model.unk_id())
        self.name: str = "sentencepiece"
        self.sha256: str | None = hashlib.sha256(content).hexdigest()
        self.vocab_size = int(self._model.vocab_size())

    def encode(self, text: bytes) -> bytes | list[int]:
        begin = [] if self.bos is None else [self.bos]
        return begin + list(self._model.encode(text.decode("utf-8", "replace")))

    def plain(self, text: str) -> list[int]:
        return list(self._model.encode(text.encode("utf-8", "replace").decode("utf-8")))

    def decode(self, tokens: list[int]) -> str:
        return str(self._model.decode([token for token in tokens if token not in (self.bos, self.eos)]))


class HuggingFace:
    """A `tokenizer.json`; its own post-processor decides about BOS."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Fast

        content = path.read_bytes()
        self._model = Fast.from_str(content.decode("utf-8"))
        self.name: str = "tokenizer.json"
        self.sha256: str | None = hashlib.sha256(content).hexdigest()
        # Ids may have gaps, so the largest one decides, not their number.
        self.vocab_size = 1 + max(self._model.get_vocab(with_added_tokens=True).values(), default=0)
        self.bos: int | None = self._model.token_to_id("<s>")
        self.eos: int | None = self._model.token_to_id("</s>")
        self.pad: int = self._model.token_to_id("<unk>") or 0

    def encode(self, text: bytes) -> bytes | list[int]:
        return list(self._model.encode(text.decode("utf-8", "replace")).ids)

    def plain(self, text: str) -> list[int]:
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return list(self._model.encode(clean, add_special_tokens=False).ids)

    def decode(self, tokens: list[int]) -> str:
        return str(self._model.decode(tokens, skip_special_tokens=True))


def tokenizer(name: str) -> Tokenizer:
    """`bytes`, a sentencepiece `*.model` or a Hugging Face `*.json`. Raises ConfigError (E711, E712)."""
    if name == "bytes":
        return Bytes()
    path = Path(name)
    makers: dict[str, type[SentencePiece] | type[HuggingFace]] = {
        ".model": SentencePiece,
        ".json": HuggingFace,
    }
    maker = makers.get(path.suffix)
    if maker is None or not path.is_file():
        raise ConfigError(
            Problem(
                code="E711",
                file=name,
                message="no such tokenizer"
                if maker
                else "not a tokenizer: wants 'bytes', a sentencepiece .model or a Hugging Face .json",
                help="the llama2 tokenizer is the file tokenizer.model of its checkpoint folder",
            )
        )
    try:
        return maker(path)
    except ImportError as error:
        raise ConfigError(
            Problem(
                code="E712",
                file=name,
                message=f"reading this tokenizer needs the package {error.name}",
                help="pip install 'nx8[data]'",
            )
        ) from error
    except Exception as error:  # both libraries raise bare RuntimeError/Exception for a bad file
        raise ConfigError(
            Problem(code="E711", file=name, message=f"the tokenizer cannot be read: {error}")
        ) from error
