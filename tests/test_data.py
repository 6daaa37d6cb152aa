"""data.py: the same text gives the same tokens everywhere, and changed bytes are refused."""

from __future__ import annotations

import array
import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from orchestrator import data, tokenizers
from orchestrator.cases import Data
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def made(source: Path, **options: object) -> data.Prepared:
    return data.prepare(data.documents(source, field="text"), name="t", encoder=tokenizers.Bytes(), **options)


def test_bytes_of_a_folder_come_in_sorted_order_whatever_order_they_were_written_in(tmp_path: Path) -> None:
    for folder, order in ((tmp_path / "one", "bca"), (tmp_path / "two", "abc")):
        (folder / "deep").mkdir(parents=True)
        for letter in order:
            (folder / f"{letter}.txt").write_text(letter * 3)
            (folder / "deep" / f"{letter}.txt").write_text(letter.upper())
    one, two = made(tmp_path / "one"), made(tmp_path / "two")
    assert one.content == b"aaabbbcccABC"
    assert one == two
    assert [item.name for item in one.manifest.inputs] == [
        "a.txt",
        "b.txt",
        "c.txt",
        "deep/a.txt",
        "deep/b.txt",
        "deep/c.txt",
    ]


def test_max_tokens_cuts_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdef")
    assert made(tmp_path / "a.txt", max_tokens=4).content == b"abcd"
    assert made(tmp_path / "a.txt", max_tokens=4).manifest.truncated
    assert not made(tmp_path / "a.txt").manifest.truncated


def test_jsonl_takes_the_named_field_and_points_at_a_line_without_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "two"}\n')
    assert made(path).content == b"onetwo"
    path.write_text('{"text": "one"}\n{"body": "two"}\n')
    with pytest.raises(ConfigError) as caught:
        made(path)
    assert (caught.value.problems[0].code, caught.value.problems[0].line) == ("E713", 2)


@pytest.mark.parametrize("line", ["[1]", '{"text": 3}', "not json", '{"text": null}', "[" * 5000])
def test_a_jsonl_line_that_holds_no_text_is_a_clear_error(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(ConfigError, match="E713"):
        made(tmp_path / "a.jsonl")


def test_no_text_at_all_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="E713"):
        made(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ConfigError, match=r"E713.*empty"):
        made(tmp_path)


def test_a_stored_file_verifies_until_one_byte_changes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    path = data.store(made(tmp_path / "a.txt"), tmp_path / "out")
    assert data.verify(tmp_path / "out", "t").num_tokens == 9
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    path.write_bytes(b"some_text")
    with pytest.raises(ConfigError, match=r"E715.*sha256"):
        data.verify(tmp_path / "out", "t")


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        data.verify(tmp_path, "t", how="nx8 data prepare TEXT --name t")
    assert caught.value.problems[0].help == "make it once: nx8 data prepare TEXT --name t"


def test_the_builtin_text_is_real_and_always_the_same() -> None:
    wanted = Data(name="b", dataset="d", tokenizer="bytes", num_tokens=200_000, builtin="python-library")
    one = data.prepare_builtin(wanted)
    assert one == data.prepare_builtin(wanted)
    assert one.manifest.num_tokens == 200_000
    assert b"statement" in one.content
    assert one.manifest.inputs[0].name.startswith("pydoc_data/")


def test_a_sentencepiece_model_encodes_with_its_own_bos(tmp_path: Path) -> None:
    import sentencepiece

    (tmp_path / "corpus.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"),
        model_prefix=str(tmp_path / "m"),
        vocab_size=40,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    encoder = tokenizers.tokenizer(str(tmp_path / "m.model"))
    (tmp_path / "a.txt").write_text("the lazy fox")
    prepared = data.prepare(data.documents(tmp_path / "a.txt", field="text"), name="t", encoder=encoder)
    assert prepared.manifest.tokenizer == "sentencepiece"
    assert prepared.manifest.tokenizer_sha256
    tokens = array.array(data.DTYPES[prepared.manifest.dtype], prepared.content)
    assert tokens[0] == 1  # <s>
    assert len(tokens) == prepared.manifest.num_tokens


def test_a_hugging_face_tokenizer_file_is_read(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made_up = Tokenizer(WordLevel({"[UNK]": 0, "fox": 1, "dog": 300}, unk_token="[UNK]"))
    made_up.pre_tokenizer = Whitespace()
    made_up.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("fox dog cat")
    encoder = tokenizers.tokenizer(str(tmp_path / "tokenizer.json"))
    prepared = data.prepare(data.documents(tmp_path / "a.txt", field="text"), name="t", encoder=encoder)
    assert prepared.manifest.vocab_size == 301
    assert list(array.array(data.DTYPES[prepared.manifest.dtype], prepared.content)) == [1, 300, 0]


@pytest.mark.parametrize("name", ["nothing.model", "weights.bin", "gpt2"])
def test_a_tokenizer_that_is_not_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="E711"):
        tokenizers.tokenizer(name)


@pytest.mark.parametrize("suffix", [".model", ".json"])
def test_a_broken_tokenizer_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"\x00not a tokenizer")
    with pytest.raises(ConfigError, match="E711"):
        tokenizers.tokenizer(str(path))


def test_the_manifest_is_strict_json_without_paths_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    text = made(tmp_path).manifest.to_json()
    assert json.loads(text)["inputs"][0]["name"] == "a.txt"
    assert os.fspath(tmp_path) not in text
