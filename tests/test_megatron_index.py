"""Megatron's .bin and .idx: written as Megatron-LM reads them, read as it writes them, refused when they do
not belong together; the trainer reads the same tokens that the host wrote.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import struct
import subprocess
import sys
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator import data, megatronindex, tokenizers
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[1]


def made(tmp_path: Path, *texts: str, **how: object) -> Path:
    source = tmp_path / "text.jsonl"
    source.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts), "utf-8")
    prepared = data.prepare(
        data.documents(source, field="text"),
        name="d",
        encoder=tokenizers.Bytes(),
        form="megatron",
        **how,  # type: ignore[arg-type]
    )
    data.store(prepared, tmp_path)
    return tmp_path


def reader() -> ModuleType:
    """The trainer's, which the host never imports."""
    spec = importlib.util.spec_from_file_location("indexed", ROOT / "cases" / "trainer" / "indexed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["indexed"] = module
    spec.loader.exec_module(module)
    return module


def test_the_files_are_laid_out_as_megatron_s_own_reader_expects(tmp_path: Path) -> None:
    """Read by hand, field by field, as megatron/core/datasets/indexed_dataset.py does."""
    folder = made(tmp_path, "ab", "cde")
    tokens = array("H", (folder / "d.bin").read_bytes())
    assert tokens.tolist() == [97, 98, 256, 99, 100, 101, 256]  # 256 ends a document: no byte
    index = (folder / "d.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    assert struct.unpack("<Q", index[9:17]) == (1,)
    assert struct.unpack("<B", index[17:18]) == (8,)  # uint16
    assert struct.unpack("<QQ", index[18:34]) == (2, 3)
    assert struct.unpack("<2i", index[34:42]) == (3, 4)
    assert struct.unpack("<2q", index[42:58]) == (0, 6)
    assert struct.unpack("<3q", index[58:]) == (0, 1, 2)


def test_host_and_trainer_read_what_was_written(tmp_path: Path) -> None:
    folder = made(tmp_path, "one", "two and more", "x")
    manifest = data.verify(folder, "d")
    assert manifest.index is not None
    assert (manifest.dtype, manifest.vocab_size, manifest.index.num_documents) == ("uint16", 257, 3)
    seen = reader().read_indexed(str(folder / "d.idx"), str(folder / "d.bin"))
    assert (seen.dtype, seen.num_tokens, seen.num_documents) == ("uint16", manifest.num_tokens, 3)
    assert seen.sha256 == manifest.index.sha256
    assert list(seen.lengths) == [4, 13, 2]


def test_a_text_cut_at_its_limit_ends_with_a_short_document(tmp_path: Path) -> None:
    folder = made(tmp_path, "abcdef", "ghijkl", max_tokens=10)
    manifest = data.verify(folder, "d")
    assert (manifest.num_tokens, manifest.truncated) == (10, True)
    found = megatronindex.read((folder / "d.idx").read_bytes(), data_bytes=20)
    assert list(found.lengths) == [7, 3]


def test_the_same_text_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made(tmp_path / name, "same", "text")
    for file in ("d.bin", "d.idx", "d.manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def damaged(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


DAMAGES = {
    "empty": lambda index: b"",
    "magic": lambda index: damaged(index, 0, b"X"),
    "version": lambda index: damaged(index, 9, struct.pack("<Q", 2)),
    "floats": lambda index: damaged(index, 17, b"\x07"),
    "more sequences": lambda index: damaged(index, 18, struct.pack("<Q", 2**60)),
    "cut": lambda index: index[:-3],
    "negative length": lambda index: damaged(index, 34, struct.pack("<i", -1)),
    "another length": lambda index: damaged(index, 34, struct.pack("<i", 2)),
    "a gap": lambda index: damaged(index, 50, struct.pack("<q", 8)),
    "documents": lambda index: damaged(index, 58, struct.pack("<q", 1)),
    "falling documents": lambda index: damaged(index, 66, struct.pack("<q", -5)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_index_that_does_not_describe_its_tokens_is_refused_by_both(tmp_path: Path, damage: str) -> None:
    folder = made(tmp_path, "ab", "cde")
    path = folder / "d.idx"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(megatronindex.BadIndexError):
        megatronindex.read(path.read_bytes(), data_bytes=14)
    theirs = reader()
    with pytest.raises(theirs.IndexedError):
        theirs.read_indexed(str(path), str(folder / "d.bin"))
    with pytest.raises(ConfigError, match="E715"):
        data.verify(folder, "d")


def test_a_manifest_that_counts_otherwise_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path, "ab", "cde")
    manifest = data.verify(folder, "d")
    wrong = dataclasses.replace(manifest, num_tokens=manifest.num_tokens + 1)
    (folder / "d.manifest.json").write_text(wrong.to_json(), "utf-8")
    with pytest.raises(ConfigError, match="E352"):
        data.verify(folder, "d")


@pytest.mark.parametrize("missing", ["d.bin", "d.idx"])
def test_half_a_pair_is_named(tmp_path: Path, missing: str) -> None:
    folder = made(tmp_path, "ab")
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=rf"E714.*{missing}"):
        data.verify(folder, "d")


def test_the_verb_makes_both_files_and_checks_them(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text", "utf-8")

    def nx8(*words: str) -> str:
        argv = (sys.executable, "-m", "orchestrator", "data", *words)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = nx8(
        "prepare", str(tmp_path / "text.txt"), "--name", "t", "--format", "megatron", "--to", str(tmp_path)
    )
    assert "10 tokens (uint16)" in said
    assert "t.idx  1 documents" in said
    assert "as its manifest says: 10 tokens" in nx8("check", "t", "--in", str(tmp_path))
