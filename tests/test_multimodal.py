"""multimodal/: real layouts become prepared sets, token for token as LLaVA has them; what does not fit is
named before anything is made.
"""

from __future__ import annotations

import array
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import data, multimodal, tokenizers
from orchestrator.cli.main import group
from orchestrator.errors import CellError, ConfigError, Nx8Error
from orchestrator.multimodal import DESCRIPTIONS, conversations, preparedset, questions
from orchestrator.multimodal.conversations import Conversation
from orchestrator.multimodal.description import IMAGE_TOKEN
from orchestrator.multimodal.template import SYSTEM, Encoded, encode, fit
from tests.llavamaker import (
    QUESTIONS,
    finetune_items,
    layout,
    pretrain_items,
    question_rows,
    questions_as_lines,
    questions_as_parquet,
    talk,
)

BYTES = tokenizers.Bytes()


def problems(error: pytest.ExceptionInfo[ConfigError]) -> list[tuple[str, str]]:
    return [(problem.code, str(problem)) for problem in error.value.problems]


def prepared(root: Path, stage: str, folder: Path, **options: Any) -> multimodal.SetManifest:
    options = {"name": "s", "tokenizer": BYTES, **options}
    return multimodal.prepare(root, DESCRIPTIONS[stage], folder=folder, **options)


def column(folder: Path, name: str, typecode: str) -> list[int]:
    return array.array(typecode, (folder / name).read_bytes()).tolist()


def sample(folder: Path, number: int) -> tuple[list[int], list[int]]:
    offsets = column(folder, "offsets.i64", "q")
    piece = slice(offsets[number], offsets[number + 1])
    return column(folder, "tokens.i32", "i")[piece], column(folder, "learned.u8", "B")[piece]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    """A sentencepiece model made as Llama's is: BPE, a space put first, spaces kept, bytes for the rest."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("pieces")
    words = f"{SYSTEM} USER: ASSISTANT: What is this? It is very odd. And why? No idea. Yes."
    (folder / "corpus.txt").write_text(f"{words}\n" * 30)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "m"),
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
        hard_vocab_limit=False,
    )
    return tokenizers.tokenizer(str(folder / "m.model"))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_every_missing_part_of_a_layout_is_named_at_once_and_nothing_is_made(
    tmp_path: Path, stage: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        prepared(tmp_path / "nothing", stage, tmp_path / "out")
    description = DESCRIPTIONS[stage]
    wanted = {str(tmp_path / "nothing" / part) for part in (description.source, *description.folders)}
    assert {problem.file for problem in caught.value.problems} == wanted
    assert {problem.code for problem in caught.value.problems} == {"E716"}
    assert not (tmp_path / "out").exists()


def test_missing_and_empty_images_are_named_with_their_sample_and_the_rest_is_counted(tmp_path: Path) -> None:
    root = layout(tmp_path, "pretrain", pretrain_items(40))
    images = sorted((root / "LLaVA-Pretrain/images").rglob("*.png"), key=lambda path: path.name)
    for path in images[:30]:
        path.unlink()
    images[35].write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        prepared(root, "pretrain", tmp_path / "out")
    found = caught.value.problems
    assert {problem.code for problem in found} == {"E717"}
    assert [problem.file for problem in found[:20]] == [str(path) for path in images[:20]]
    assert "the image of sample 7:" in found[7].message
    assert found[20].message == "and 11 more like these among 40 samples with 40 images"
    assert len(found) == 21
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_there_in_another_format_is_pointed_at(tmp_path: Path) -> None:
    root = layout(tmp_path, "pretrain", [talk("<image>", "a", image="0/book.jpg")])
    path = root / "LLaVA-Pretrain/images/0/book.jpg"
    path.rename(path.with_suffix(".gif"))
    with pytest.raises(ConfigError) as caught:
        prepared(root, "pretrain", tmp_path / "out")
    assert caught.value.problems[0].help == "book.gif is there: store it as book.jpg, in that format"


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"conversations": []}, 'no "conversations"'),
        (talk("hello", image="a.png"), "one image, but 0 turns have <image>"),
        (talk("<image> a", "b", "<image> c", "d", image="a.png"), "one image, but 2 turns have <image>"),
        (talk("<image>", "b", image="../a.png"), "no file name below"),
        (talk("<image>", "b", image="/etc/passwd"), "no file name below"),
        (talk("<image>", "b", image="a\nb.png"), "no file name below"),
        (talk("<image>", "b", image="a\\b.png"), "no file name below"),
        ({"conversations": [{"from": "human", "value": 3}]}, "a turn is not"),
        ({"conversations": [{"from": "system", "value": "x"}]}, "a turn is not"),
        ({"conversations": [{"from": "human", "value": "a"}] * 2}, "do not take turns"),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, "do not take turns"),
    ],
)
def test_a_sample_off_the_form_is_named_by_its_number(
    tmp_path: Path, item: dict[str, Any], words: str
) -> None:
    root = layout(tmp_path, "finetune", [talk("a", "b")])
    (root / DESCRIPTIONS["finetune"].source).write_text(json.dumps([talk("a", "b"), item]))
    with pytest.raises(ConfigError) as caught:
        prepared(root, "finetune", tmp_path / "out")
    ((code, text),) = problems(caught)
    assert code == "E719"
    assert "sample 1: " in text
    assert words in text


def test_a_stage_refuses_a_talk_that_its_template_has_no_place_for_before_it_makes_anything(
    tmp_path: Path,
) -> None:
    root = layout(tmp_path, "pretrain", [*pretrain_items(3), talk("words", "only")])
    with pytest.raises(ConfigError) as caught:
        prepared(root, "pretrain", tmp_path / "out")
    assert "sample 3: this stage wants an image" in problems(caught)[0][1]
    assert not (tmp_path / "out").exists()


@given(
    values=st.lists(
        st.dictionaries(st.text(max_size=3), st.one_of(st.text(), st.integers(), st.lists(st.none()))),
        max_size=6,
    ),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    chars=st.integers(1, 9),
)
@settings(max_examples=150, deadline=None)
def test_items_come_one_by_one_as_the_json_module_reads_the_whole(
    values: list[Any], indent: int | None, ascii_only: bool, chars: int
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    file = io.StringIO(text, newline="")
    short_reads = conversations._Array(lambda wanted: file.read(min(wanted, chars)))
    assert list(short_reads.items()) == values


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1, 2]",
        b'[{"a": 1}',
        b'[{"a": 1},]',
        b'[{"a": 1} {"a": 2}]',
        b'[{"a": 1}] []',
        b'[{"a": }]',
        b'[{"a": "' + b"x" * 100,
        b"\xff\xfe[]",
        b'[{"a": ' + b"[" * 100_000,
    ],
)
def test_a_file_that_is_no_array_of_objects_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        list(conversations.items(path))
    ((code, text),) = problems(caught)
    assert (code, str(path) in text) == ("E718", True)


def test_a_long_file_is_never_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    words = "word " * 2000
    with path.open("w") as file:
        file.write("[" + ",\n".join(json.dumps(talk(words, words)) for _ in range(2000)) + "]")
    tracemalloc.start()
    count = sum(isinstance(item, Conversation) for item in conversations.read(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 2000
    assert path.stat().st_size > 40_000_000
    assert peak < 16_000_000


def as_llava_masks(text: str, tokenizer: tokenizers.Tokenizer) -> tuple[list[int], list[bool]]:
    """LLaVA's own way for template v1: tokens of the whole text, then rounds counted from its pieces."""

    def whole(piece: str) -> list[int]:
        found = [tokenizer.bos]
        for number, part in enumerate(piece.split("<image>")):
            found += [IMAGE_TOKEN] * bool(number)
            for ended, words in enumerate(part.split("</s>")):
                found += [tokenizer.eos] * bool(ended) + tokenizer.plain(words)
        return found

    tokens = whole(text)
    learned = [False] * len(tokens)
    at = 1
    for spoken in text.split("</s>"):
        if not spoken:
            break
        asked = spoken.split(" ASSISTANT: ")[0] + " ASSISTANT: "
        end, first = at + len(whole(spoken)), at + len(whole(asked)) - 2
        learned[first:end] = [True] * (end - first)
        at = end
    assert at == len(tokens)
    return tokens, learned


def test_v1_is_token_for_token_and_mask_for_mask_what_llava_makes(pieces: tokenizers.Tokenizer) -> None:
    turns = (
        ("human", "What is this?\n<image>"),
        ("gpt", "It is very odd."),
        ("human", "And why?"),
        ("gpt", "No idea."),
    )
    made = encode(Conversation(number=0, image="a", turns=turns), template="v1", tokenizer=pieces)
    text = (
        f"{SYSTEM} USER: <image>\nWhat is this? ASSISTANT: It is very odd.</s>"
        "USER: And why? ASSISTANT: No idea.</s>"
    )
    tokens, learned = as_llava_masks(text, pieces)
    assert made.tokens == tokens
    assert [bool(one) for one in made.learned] == learned
    assert made.tokens[0] == pieces.bos
    assert made.tokens.count(IMAGE_TOKEN) == 1
    spoken = [token for token, one in zip(made.tokens, made.learned, strict=True) if one]
    assert spoken.count(pieces.eos) == 2
    assert pieces.decode(spoken).split() == ["It", "is", "very", "odd.", "No", "idea."]


def test_plain_is_image_caption_and_line_feed_and_learns_the_caption(pieces: tokenizers.Tokenizer) -> None:
    turns = (("human", "Describe it.\n<image>"), ("gpt", "It is very odd."))
    made = encode(Conversation(number=0, image="a", turns=turns), template="plain", tokenizer=pieces)
    caption = pieces.plain("It is very odd.\n")
    assert made.tokens == [pieces.bos, IMAGE_TOKEN, *caption]
    assert made.learned == [0, 0] + [1] * len(caption)


def test_in_a_talk_without_an_image_the_placeholder_is_words() -> None:
    talked = Conversation(number=0, image=None, turns=(("human", "What is <image>?"), ("gpt", "A tag.")))
    made = encode(talked, template="v1", tokenizer=BYTES)
    assert b"What is <image>?" in bytes(made.tokens)


def test_a_question_without_an_answer_teaches_nothing() -> None:
    turns = (("human", "One?"), ("gpt", "One."), ("human", "Two?"))
    made = encode(Conversation(number=0, image=None, turns=turns), template="v1", tokenizer=BYTES)
    spoken = bytes(token for token, one in zip(made.tokens, made.learned, strict=True) if one)
    assert spoken == b" One.\x03"
    assert bytes(made.tokens).endswith(b"\x03USER: Two? ")


def test_v1_wants_a_tokenizer_with_an_end_of_text() -> None:
    class NoEnd(tokenizers.Bytes):
        eos = None

    with pytest.raises(conversations.MisfitError, match="</s>"):
        encode(
            Conversation(number=0, image=None, turns=(("human", "a"), ("gpt", "b"))),
            template="v1",
            tokenizer=NoEnd(),
        )


@pytest.mark.parametrize(
    ("tokens", "limit", "kept", "length", "cut", "lost"),
    [
        ([1, 2, 3], 3, [1, 2, 3], 3, False, False),
        ([1, 2, 3], 2, [1, 2], 2, True, False),
        ([1, IMAGE_TOKEN, 2, 3], 7, [1, IMAGE_TOKEN, 2, 3], 7, False, False),
        ([1, IMAGE_TOKEN, 2, 3], 6, [1, IMAGE_TOKEN, 2], 6, True, False),
        ([1, IMAGE_TOKEN, 2, 3], 5, [1, IMAGE_TOKEN], 5, True, False),
        ([1, IMAGE_TOKEN, 2, 3], 4, [1], 1, True, True),
        ([1, 2, 3, IMAGE_TOKEN], 2, [1, 2], 2, True, True),
    ],
)
def test_a_sequence_is_cut_at_the_models_length_and_never_inside_an_image(
    tokens: list[int], limit: int, kept: list[int], length: int, cut: bool, lost: bool
) -> None:
    made = fit(Encoded(tokens=tokens, learned=[1] * len(tokens)), image_positions=4, limit=limit)
    assert (made.encoded.tokens, made.length, made.cut, made.image_lost) == (kept, length, cut, lost)
    assert len(made.encoded.learned) == len(kept)


def test_a_finetune_set_holds_every_sample_in_order_with_its_image(tmp_path: Path) -> None:
    items = finetune_items(24)
    items[5]["image"], items[5]["conversations"][0]["value"] = items[0]["image"], "<image>\nAgain?"
    root = layout(tmp_path, "finetune", items)
    manifest = prepared(root, "finetune", tmp_path / "out")
    folder = tmp_path / "out" / "s"
    listed = [line.split("  ") for line in (folder / "images.sha256").read_text().splitlines()]
    numbers = column(folder, "image.i32", "i")
    for number, item in enumerate(items):
        tokens, learned = sample(folder, number)
        spoken = bytes(token for token, one in zip(tokens, learned, strict=True) if one)
        answers = [turn["value"] for turn in item["conversations"][1::2]]
        assert spoken.decode() == "".join(f" {answer}\x03" for answer in answers)
        assert tokens.count(IMAGE_TOKEN) == ("image" in item)
        if "image" in item:
            digest, name = listed[numbers[number]]
            content = (root / "LLaVA-Finetune/data" / item["image"]).read_bytes()
            assert (digest, name) == (hashlib.sha256(content).hexdigest(), item["image"])
        else:
            assert numbers[number] == -1
    assert numbers[5] == numbers[0]
    assert (manifest.num_samples, manifest.num_image_samples, manifest.num_images) == (24, 17, 16)
    stored = sum(len(sample(folder, number)[0]) for number in range(24))
    assert manifest.num_tokens == stored + 575 * manifest.num_image_samples
    assert manifest.mean_length == manifest.num_tokens / 24
    words = [sum(len(turn["value"].split()) for turn in item["conversations"]) for item in items]
    signed = [count if "image" in item else -count for count, item in zip(words, items, strict=True)]
    assert column(folder, "words.i32", "i") == signed


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    root = layout(tmp_path, "pretrain", pretrain_items(12))
    for folder in ("one", "two"):
        prepared(root, "pretrain", tmp_path / folder)
    for path in (tmp_path / "one" / "s").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "s" / path.name).read_bytes()


def test_what_is_too_long_is_cut_and_counted(tmp_path: Path) -> None:
    root = layout(tmp_path, "finetune", finetune_items(6))
    short = replace(DESCRIPTIONS["finetune"], model_max_length=300)
    manifest = multimodal.prepare(root, short, name="s", tokenizer=BYTES, folder=tmp_path / "out")
    assert manifest.max_length <= 300
    # 576 positions do not fit in 300: the four samples with an image end before it.
    assert (manifest.num_cut, manifest.num_images_lost, manifest.num_image_samples) == (4, 4, 0)


def test_a_set_verifies_until_a_byte_changes_or_a_file_is_gone(tmp_path: Path) -> None:
    root = layout(tmp_path, "pretrain", pretrain_items(5))
    manifest = prepared(root, "pretrain", tmp_path / "out")
    images = root / "LLaVA-Pretrain" / "images"
    assert multimodal.verify(tmp_path / "out", "s", images=images) == manifest
    for name in ("tokens.i32", "image.i32", "images.sha256", "words.i32"):
        broken = tmp_path / name
        shutil.copytree(tmp_path / "out", broken)
        content = (broken / "s" / name).read_bytes()
        (broken / "s" / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(ConfigError, match=r"E722.*sha256") as caught:
            multimodal.verify(broken, "s")
        assert caught.value.problems[0].file == str(broken / "s" / name)
        (broken / "s" / name).unlink()
        with pytest.raises(ConfigError, match="E721"):
            multimodal.verify(broken, "s")


def test_verification_of_the_images_names_the_missing_and_the_changed(tmp_path: Path) -> None:
    root = layout(tmp_path, "pretrain", pretrain_items(5))
    prepared(root, "pretrain", tmp_path / "out")
    images = root / "LLaVA-Pretrain" / "images"
    gone, other = images / "00001/000000001.png", images / "00003/000000003.png"
    gone.unlink()
    other.write_bytes((images / "00002/000000002.png").read_bytes())
    assert multimodal.verify(tmp_path / "out", "s").num_images == 5
    with pytest.raises(ConfigError) as caught:
        multimodal.verify(tmp_path / "out", "s", images=images)
    assert [(problem.code, problem.file) for problem in caught.value.problems] == [
        ("E717", str(gone)),
        ("E722", str(other)),
    ]


def test_a_set_without_a_manifest_was_never_finished(tmp_path: Path) -> None:
    root = layout(tmp_path, "pretrain", pretrain_items(2))
    prepared(root, "pretrain", tmp_path / "out")
    (tmp_path / "out" / "s" / "manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"E721.*never finished"):
        multimodal.verify(tmp_path / "out", "s")


def test_a_name_that_is_taken_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    root = layout(tmp_path, "pretrain", pretrain_items(2))
    prepared(root, "pretrain", tmp_path / "out")
    before = (tmp_path / "out" / "s" / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match="E720"):
        prepared(tmp_path / "nothing", "pretrain", tmp_path / "out")
    with pytest.raises(ConfigError, match="E711"):
        prepared(root, "pretrain", tmp_path / "out", name="../s")
    assert (tmp_path / "out" / "s" / "manifest.json").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    root = layout(tmp_path, "pretrain", pretrain_items(2))
    (tmp_path / "out").write_text("a file, not a folder")
    with pytest.raises(CellError, match="E701"):
        prepared(root, "pretrain", tmp_path / "out")


def test_a_broken_off_preparation_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), preparedset.new_folder(tmp_path, "s") as folder:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_sha256sum_reads_the_list_of_images(tmp_path: Path) -> None:
    root = layout(tmp_path, "finetune", finetune_items(6))
    prepared(root, "finetune", tmp_path / "out")
    listing = (tmp_path / "out" / "s" / "images.sha256").read_bytes()
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "-"],
        input=listing,
        cwd=root / "LLaVA-Finetune/data",
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("llava-proxy-pretrain", "346f21f960682311df9a144b60df76277e44f16b135f29016d00599bd551f8e7"),
        ("llava-proxy-finetune", "8c82257628895e005606a06de73ed738a3de3376c10126e0326bd691e454c794"),
        ("mmmu-proxy", "b5554ae677da2fdf67ad99153fee838d684241b71546e2b3f5984051d07c1000"),
    ],
)
def test_the_proxies_are_the_same_on_every_machine(tmp_path: Path, name: str, sha256: str) -> None:
    manifest = multimodal.prepare_proxy(name, folder=tmp_path)
    assert multimodal.verify(tmp_path, name) == manifest
    assert hashlib.sha256((tmp_path / name / "manifest.json").read_bytes()).hexdigest() == sha256
    assert manifest.num_cut == 0


def test_the_finetune_proxy_has_both_modalities_and_many_lengths(tmp_path: Path) -> None:
    multimodal.prepare_proxy("llava-proxy-finetune", folder=tmp_path)
    words = column(tmp_path / "llava-proxy-finetune", "words.i32", "i")
    assert (len(words), sum(one < 0 for one in words)) == (320, 80)
    assert len(set(words)) >= 4


def asked(root: Path, folder: Path, **options: Any) -> multimodal.SetManifest:
    return multimodal.prepare_questions(
        root, QUESTIONS, **{"name": "q", "tokenizer": BYTES, "folder": folder, **options}
    )


def test_both_forms_of_mmmu_give_the_same_questions_and_the_same_key(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow reads the published form")
    one = asked(questions_as_lines(tmp_path / "lines"), tmp_path / "one")
    two = asked(questions_as_parquet(tmp_path / "parquet"), tmp_path / "two")
    assert one.source != two.source
    assert replace(one, source=None) == replace(two, source=None)
    assert (tmp_path / "one/q.key.json").read_bytes() == (tmp_path / "two/q.key.json").read_bytes()
    assert one.num_samples == 15


def test_the_key_stays_apart_and_no_answer_is_in_the_set(tmp_path: Path) -> None:
    manifest = asked(questions_as_lines(tmp_path), tmp_path / "out")
    key = tmp_path / "out" / "q.key.json"
    assert manifest.key_sha256 == hashlib.sha256(key.read_bytes()).hexdigest()
    entries = json.loads(key.read_text())["entries"]
    assert [entry["answers"] for entry in entries[:4]] == [["B"], ["C"], ["D"], ["24/7", "3.429"]]
    assert not any(b"24/7" in path.read_bytes() for path in (tmp_path / "out/q").glob("*.*"))


def test_a_prompt_is_the_published_evaluations(tmp_path: Path) -> None:
    asked(questions_as_lines(tmp_path), tmp_path / "out")
    listed = [json.loads(line) for line in (tmp_path / "out/q/questions.jsonl").read_text().splitlines()]
    assert listed[0]["prompt"] == (
        "What does <image 1> show in Accounting?\n"
        "(A) a cat\n(B) a dog's ear\n(C) <image 2>\n(D) $5,000\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert listed[3]["prompt"] == (
        "What does <image 1> show in Accounting?\nAnswer the question using a single word or phrase."
    )
    assert (listed[0]["num_images"], listed[1]["num_images"]) == (2, 1)
    tokens, learned = sample(tmp_path / "out/q", 0)
    at = tokens.index(IMAGE_TOKEN)
    assert bytes(tokens[:at]).decode() == f"{SYSTEM} USER: "
    assert bytes(tokens[at + 1 :]).decode() == f"\n{listed[0]['prompt']} ASSISTANT:"
    assert set(learned) == {0}


def test_missing_subjects_and_files_are_named(tmp_path: Path) -> None:
    root = questions_as_lines(tmp_path)
    shutil.rmtree(root / "MMMU/MMMU/Art")
    (root / "MMMU/MMMU/Math/validation.jsonl").unlink()
    with pytest.raises(ConfigError) as caught:
        asked(root, tmp_path / "out")
    assert [(problem.code, problem.file) for problem in caught.value.problems] == [
        ("E716", str(root / "MMMU/MMMU/Art")),
        ("E716", str(root / "MMMU/MMMU/Math/validation-00000-of-00001.parquet")),
    ]
    assert len(multimodal.MMMU.subjects) == 30


def test_parquet_without_pyarrow_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for subject in QUESTIONS.subjects:
        folder = tmp_path / QUESTIONS.root / subject
        folder.mkdir(parents=True)
        (folder / "validation-00000-of-00001.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"E723.*pyarrow"):
        asked(tmp_path, tmp_path / "out")


def test_a_damaged_parquet_file_is_a_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow reads the published form")
    root = questions_as_parquet(tmp_path)
    path = root / "MMMU/MMMU/Art/validation-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"E724.*Parquet"):
        asked(root, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "a/b"}, "id 'a/b'"),
        ({"id": "validation_Art_2"}, "validation_Art_2 is there twice"),
        ({"question_type": "essay"}, "question_type"),
        ({"options": "__import__('os').getcwd()"}, "no list of texts"),
        ({"options": "['only one']"}, "1 options"),
        ({"answer": "E"}, "none of A, B, C, D"),
        ({"answer": None}, "none of A, B, C, D"),
        ({"question": None}, "no question"),
        ({"question": "look: <image>"}, "no question"),
        ({"image_1": "images/nowhere.png"}, "nowhere.png: No such file"),
        ({"image_1": "../../../../etc/passwd"}, "no first image"),
        ({"image_1": None}, "no first image"),
        ({"question_type": "open", "answer": ""}, "no answer"),
    ],
)
def test_a_row_that_is_no_question_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    root = questions_as_lines(tmp_path)
    path = root / "MMMU/MMMU/Art/validation.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), **change}), *rest]))
    with pytest.raises(ConfigError) as caught:
        asked(root, tmp_path / "out")
    ((code, text),) = problems(caught)
    assert code == "E724"
    assert words in text
    assert not (tmp_path / "out").exists()


@given(
    row=st.dictionaries(
        st.sampled_from(list(question_rows("Art", 1)[0])),
        st.recursive(st.one_of(st.none(), st.text(), st.integers(), st.binary()), st.lists, max_leaves=4),
    )
)
@settings(max_examples=150, deadline=None)
def test_no_row_whatever_it_holds_raises_anything_but_its_name(row: dict[str, Any]) -> None:
    with pytest.raises(questions.MisfitError):
        questions._question(row, subject="Art", beside=Path("/nonexistent"))


def nx8(*words: object) -> Any:
    return CliRunner().invoke(group, ["data", *map(str, words)])


def test_the_verb_prepares_and_checks_a_stage_and_says_that_it_is_not_the_published_set(
    tmp_path: Path,
) -> None:
    root = layout(tmp_path, "finetune", finetune_items(9))
    done = nx8("prepare", "llava-finetune", "--from", root, "--tokenizer", "bytes", "--to", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "9 conversations with 6 images" in done.stdout
    assert "the published set: that one has 665,298 samples" in done.stderr.replace("\n", " ")
    images = root / "LLaVA-Finetune/data"
    checked = nx8("check", "llava-finetune", "--in", tmp_path / "out", "--images", images)
    assert "6 of 6 images read" in checked.stdout
    assert "0 of 6 images read" in nx8("check", "llava-finetune", "--in", tmp_path / "out").stdout


def test_the_verb_makes_a_proxy_out_of_nothing(tmp_path: Path) -> None:
    done = nx8("prepare", "mmmu-proxy", "--to", tmp_path)
    assert done.exit_code == 0, done.output
    assert "60 questions with 60 images" in done.stdout


def test_the_verb_makes_a_cases_own_data_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("some text")
    words = ("prepare", "llama2_7b", "--from", tmp_path / "text", "--to", tmp_path)
    done = nx8(*words, "--tokenizer", "bytes")
    assert done.exit_code == 0, done.output
    assert data.verify(tmp_path, "openwebtext_llama2_100M").num_tokens == 9
    missing = nx8(*words)
    assert (missing.exit_code, "llama2 sentencepiece" in missing.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prepare", "llava-pretrain"), "wants --from DIR"),
        (("prepare", "nowhere.txt", "--name", "x"), "There is no 'nowhere.txt' here"),
        (("prepare", "tests", "--tokenizer", "bytes"), "Missing option '--name'"),
        (("prepare", "lava", "--from", "."), "llama2_7b"),
        (("prepare", "mmmu", "--from", "."), "vicuna"),
    ],
)
def test_what_the_verb_cannot_make_it_refuses_with_what_it_can(words: tuple[str, ...], said: str) -> None:
    done = nx8(*words)
    assert done.exit_code == 2
    assert said in done.stderr


def test_the_verb_passes_on_every_missing_part(tmp_path: Path) -> None:
    done = nx8("prepare", "llava-finetune", "--from", tmp_path, "--tokenizer", "bytes", "--to", tmp_path)
    assert isinstance(done.exception, Nx8Error)
    assert len(done.exception.problems) == 7
