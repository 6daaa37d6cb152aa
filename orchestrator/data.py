"""Text → token file with its manifest, and the check that the two still belong together.

`<name>.tokens` holds little-endian integers, nothing else; `<name>.manifest.json` beside it says what they
are and where they are from. In Megatron's form they are `<name>.bin`, with `<name>.idx` beside it. The same
inputs give the same bytes on every machine: files in sorted order, no clock and no path of this machine
inside.
"""

from __future__ import annotations

import array
import hashlib
import json
import re
import sys
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator import megatronindex
from orchestrator.errors import CellError, ConfigError, Problem
from orchestrator.text import NAME_REGEX
from orchestrator.tokenizers import Bytes, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator.cases import Data

DTYPES: dict[str, str] = {"uint8": "B", "int16": "h", "uint16": "H", "int32": "i"}
NAME = re.compile(NAME_REGEX)
READ_BYTES = 4 * 1024 * 1024
#: A manifest lists its inputs one by one up to this many; beyond, their digest and count stand for them.
LISTED_INPUTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One file of text, by its name below the folder it was found in."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """The `.idx` of tokens that lie in Megatron's form: its SHA-256 and what it counts."""

    sha256: str
    num_sequences: int
    num_documents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a token file is; with `index` it is Megatron's pair of `.bin` and `.idx`.

    `sha256` is of the token file; `inputs_sha256` of the lines "<sha256>  <name>" of the inputs in order;
    `truncated` says that `max_tokens` ended the file before the inputs did.
    """

    schema: Literal[1]
    name: str
    sha256: str
    num_tokens: int
    dtype: Literal["uint8", "int16", "uint16", "int32"]
    tokenizer: str
    tokenizer_sha256: str | None
    vocab_size: int
    num_inputs: int
    input_bytes: int
    inputs_sha256: str
    truncated: bool
    inputs: tuple[Input, ...]
    index: Index | None = None

    def to_json(self) -> str:
        content = asdict(self)
        if self.index is None:
            del content["index"]
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def documents(source: Path, *, field: str) -> Iterator[tuple[Input, Iterator[bytes]]]:
    """The inputs under `source` in sorted order, each with its texts; a `.jsonl` has one a line, under
    `field`.
    """
    files = _text_files(source)
    if not files:
        raise ConfigError(
            Problem(
                code="E713",
                file=str(source),
                message="no text here: wants a .txt or .jsonl file, or a folder that holds some",
            )
        )
    root = source if source.is_dir() else source.parent
    for path in files:
        content = path.read_bytes()
        name = path.relative_to(root).as_posix()
        about = Input(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        yield about, (_json_lines(path, content, field) if path.suffix == ".jsonl" else iter([content]))


def _text_files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    found = (path for path in source.rglob("*") if path.suffix in {".txt", ".jsonl", ".md", ".rst", ".py"})
    return sorted(
        (path for path in found if path.is_file()), key=lambda path: path.relative_to(source).as_posix()
    )


def _json_lines(path: Path, content: bytes, field: str) -> Iterator[bytes]:
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[field]
            yield text.encode("utf-8", "surrogatepass")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                Problem(
                    code="E713",
                    file=str(path),
                    line=number,
                    column=1,
                    message=f"this line has no text under {field!r}",
                    help="one JSON object a line; name its text field with --field",
                )
            ) from error


def builtin_documents(name: str) -> Iterator[tuple[Input, Iterator[bytes]]]:
    """A text that is on every machine. `python-library`: the documentation topics, then the sources of
    Python's own library.
    """
    if name != "python-library":
        raise ValueError(f"unknown builtin text {name!r}")
    root = Path(sysconfig.get_path("stdlib"))
    sources = [
        path
        for path in root.rglob("*.py")
        if not {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}
        & set(path.relative_to(root).parts)
    ]
    for path in sorted(
        sources, key=lambda path: (path.parent.name != "pydoc_data", path.relative_to(root).as_posix())
    ):
        content = path.read_bytes()
        about = Input(
            name=path.relative_to(root).as_posix(),
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        yield about, iter([content])


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A token file's manifest and, where it was just made, its content and its index."""

    manifest: Manifest
    content: bytes
    index: bytes | None = None


def prepare(
    inputs: Iterable[tuple[Input, Iterator[bytes]]],
    *,
    name: str,
    encoder: Tokenizer,
    max_tokens: int | None = None,
    form: Literal["tokens", "megatron"] = "tokens",
) -> Prepared:
    """Encodes the texts in order, up to `max_tokens`. Raises ConfigError (E713) when nothing comes out.

    In Megatron's form every text is a document and ends with the tokenizer's end token; of a tokenizer
    without one, as of bytes, with the first id that is no word of it. Held in memory: the published case's
    100 M tokens are 200 MB.
    """
    dtype: Literal["uint8", "int16", "uint16", "int32"] = (
        "uint8" if encoder.vocab_size <= 2**8 else "int16" if encoder.vocab_size <= 2**15 else "int32"
    )
    ending: tuple[int, ...] = ()
    vocab_size = encoder.vocab_size
    if form == "megatron":
        ending = (encoder.vocab_size if encoder.name == "bytes" or encoder.eos is None else encoder.eos,)
        vocab_size = max(vocab_size, ending[0] + 1)
        dtype = "uint16" if vocab_size < megatronindex.SMALL_VOCABULARY else "int32"
    tokens = array.array(DTYPES[dtype])
    lengths: list[int] = []
    seen: list[Input] = []
    for about, texts in inputs:
        seen.append(about)
        for text in texts:
            before = len(tokens)
            tokens.extend(encoder.encode(text))
            tokens.extend(ending)
            lengths.append(len(tokens) - before)
            if max_tokens is not None and len(tokens) >= max_tokens:
                break
        if max_tokens is not None and len(tokens) >= max_tokens:
            break
    truncated = max_tokens is not None and len(tokens) >= max_tokens
    del tokens[max_tokens if truncated else len(tokens) :]
    if not tokens:
        raise ConfigError(Problem(code="E713", message=f"the text of {name} is empty: no token came out"))
    packed = None
    if form == "megatron":
        lengths[-1] -= sum(lengths) - len(tokens)  # where `max_tokens` cut the last document
        packed = megatronindex.packed(lengths, dtype=dtype)
    if sys.byteorder == "big":
        tokens.byteswap()
    content = tokens.tobytes()
    listing = "".join(f"{one.sha256}  {one.name}\n" for one in seen)
    return Prepared(
        content=content,
        index=packed,
        manifest=Manifest(
            schema=1,
            name=name,
            sha256=hashlib.sha256(content).hexdigest(),
            num_tokens=len(tokens),
            dtype=dtype,
            tokenizer=encoder.name,
            tokenizer_sha256=encoder.sha256,
            vocab_size=vocab_size,
            num_inputs=len(seen),
            input_bytes=sum(one.bytes for one in seen),
            inputs_sha256=hashlib.sha256(listing.encode("utf-8")).hexdigest(),
            truncated=truncated,
            inputs=tuple(seen) if len(seen) <= LISTED_INPUTS else (),
            index=None
            if packed is None
            else Index(
                sha256=hashlib.sha256(packed).hexdigest(),
                num_sequences=len(lengths),
                num_documents=len(lengths),
            ),
        ),
    )


def prepare_builtin(data: Data) -> Prepared:
    """The token file of a case that brings its own text."""
    if data.builtin is None:
        raise ValueError(f"{data.name} has no builtin text")
    return prepare(
        builtin_documents(data.builtin),
        name=data.name,
        encoder=Bytes(),
        max_tokens=data.num_tokens,
        form=data.format,
    )


def token_file(folder: Path, name: str, *, indexed: bool = False) -> Path:
    return folder / (f"{name}.bin" if indexed else f"{name}.tokens")


def index_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.idx"


def manifest_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.manifest.json"


def store(prepared: Prepared, folder: Path) -> Path:
    """Writes both files, the manifest last: a token file without one was never finished. Returns the token
    file's path.
    """
    from orchestrator.results import write_atomic
    from orchestrator.results.storage import make_folder, storage_problem

    if not NAME.fullmatch(prepared.manifest.name):
        raise ConfigError(_bad_name(prepared.manifest.name))
    try:
        make_folder(folder)
    except OSError as error:
        raise CellError(storage_problem(error, folder, code="E701")) from error
    target = token_file(folder, prepared.manifest.name, indexed=prepared.index is not None)
    write_atomic(target, prepared.content)
    if prepared.index is not None:
        write_atomic(index_file(folder, prepared.manifest.name), prepared.index)
    write_atomic(manifest_file(folder, prepared.manifest.name), prepared.manifest.to_json().encode("utf-8"))
    return target


def _bad_name(name: str) -> Problem:
    return Problem(
        code="E711",
        message=f"{name!r} cannot name a token file",
        help="letters, digits, '.', '_' and '-', 63 at most",
    )


def verify(folder: Path, name: str, *, how: str | None = None) -> Manifest:
    """The manifest of a token file whose bytes were just checked against it.

    Raises ConfigError: E714 when a file is missing, E715 when the bytes are not those of the manifest, E352
    when an index does not describe the tokens beside it.
    """
    from orchestrator.load import read_stored

    if not NAME.fullmatch(name):
        raise ConfigError(_bad_name(name))
    listing = manifest_file(folder, name)
    manifest = read_stored(listing, Manifest) if listing.is_file() else None
    tokens = token_file(folder, name, indexed=_is_indexed(folder, name, manifest))
    wanted = [tokens, *([index_file(folder, name)] if tokens.suffix == ".bin" else []), listing]
    missing = [str(path) for path in wanted if not path.is_file()]
    if missing or manifest is None:
        raise ConfigError(
            Problem(
                code="E714",
                message=f"the data {name} is not there: {', '.join(missing)} missing",
                help=f"make it once: {how}" if how else "nx8 data prepare --help says how one is made",
            )
        )
    digests = {tokens: manifest.sha256}
    if manifest.index is not None:
        digests[index_file(folder, name)] = manifest.index.sha256
    for path, digest in digests.items():
        seen = file_sha256(path)
        if seen != digest:
            raise ConfigError(
                Problem(
                    code="E715",
                    file=str(path),
                    message=f"not the data of its manifest: its sha256 is {seen}, not {digest}",
                    help=f"changed or cut after it was made: remove it and {listing.name}, prepare it again",
                )
            )
    if manifest.index is not None:
        _check_index(folder, name, manifest)
    return manifest


def _is_indexed(folder: Path, name: str, manifest: Manifest | None) -> bool:
    """By its manifest; without one by what lies there."""
    if manifest is not None:
        return manifest.index is not None
    return token_file(folder, name, indexed=True).is_file() or index_file(folder, name).is_file()


def _check_index(folder: Path, name: str, manifest: Manifest) -> None:
    """Raises ConfigError (E352) unless the index describes exactly the tokens beside it."""
    path, tokens = index_file(folder, name), token_file(folder, name, indexed=True)
    try:
        found = megatronindex.read(path.read_bytes(), data_bytes=tokens.stat().st_size)
    except megatronindex.BadIndexError as problem:
        raise ConfigError(
            Problem(code="E352", file=str(path), message=str(problem), help="prepare the data again")
        ) from None
    said = (found.dtype, found.num_tokens, len(found.lengths), found.num_documents)
    index = manifest.index
    assert index is not None
    wanted = (manifest.dtype, manifest.num_tokens, index.num_sequences, index.num_documents)
    if said != wanted:
        raise ConfigError(
            Problem(
                code="E352",
                file=str(path),
                message=f"dtype, tokens, sequences, documents: {said}; the manifest says {wanted}",
                help="prepare the data again",
            )
        )


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for chunk in chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, never held whole."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(READ_BYTES):
            yield chunk
