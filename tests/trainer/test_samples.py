"""samples.py and grouping.py: what the host prepared comes back as padded micro-batches, every sample once an
epoch over all ranks, and nothing but what was prepared.
"""

import hashlib
import itertools
import json
import math
import shutil
import sys
import threading

import pytest

from orchestrator import multimodal, tokenizers
from orchestrator.multimodal import DESCRIPTIONS, PROXIES
from tests.llavamaker import finetune_items, layout, png, pretrain_items

pytestmark = pytest.mark.trainer
IMAGE = -200
WAIT_S = 120.0


@pytest.fixture(scope="module")
def samples(tools):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tools.trainer))
        yield tools.load("samples")


@pytest.fixture(scope="module")
def grouping(tools):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tools.trainer))
        yield tools.load("grouping")


@pytest.fixture(scope="module")
def proxies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proxies")
    for name in PROXIES:
        multimodal.prepare_proxy(name, folder=folder)
    return folder


@pytest.fixture
def finetune(proxies, tmp_path):
    """A copy of the finetune proxy, to be damaged."""
    return shutil.copytree(proxies / "llava-proxy-finetune", tmp_path / "set")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Both stages of a small folder of the real layout, with image files."""
    root = tmp_path_factory.mktemp("real")
    for stage, items in (("pretrain", pretrain_items(12)), ("finetune", finetune_items(12))):
        layout(root, stage, items)
        multimodal.prepare(
            root, DESCRIPTIONS[stage], name=stage, tokenizer=tokenizers.Bytes(), folder=root / "sets"
        )
    return root


def test_a_micro_batch_is_padded_on_the_right_to_its_longest(samples, proxies):
    one = samples.PreparedSet(str(proxies / "llava-proxy-finetune"))
    made = one.batch([0, 3, 8, 5])
    lengths = made.lengths_B.tolist()
    assert made.inputs_BS.shape == made.labels_BS.shape == (4, max(lengths))
    assert len(set(lengths)) > 1
    for row, labels, length in zip(made.inputs_BS, made.labels_BS, lengths, strict=True):
        assert set(row[length:].tolist()) <= {one.manifest["pad_token"]}
        assert set(labels[length:].tolist()) <= {-100}
    assert (made.real_tokens, made.padded_tokens) == (sum(lengths), 4 * max(lengths))
    assert str(made.inputs_BS.dtype) == str(made.labels_BS.dtype) == "torch.int64"


def test_labels_are_the_next_tokens_where_the_assistant_speaks(samples, proxies):
    one = samples.PreparedSet(str(proxies / "llava-proxy-finetune"))
    items = json.loads((proxies / "llava-proxy-finetune" / "source.json").read_text())
    for number, item in enumerate(items[:40]):
        made = one.batch([number])
        inputs, labels = made.inputs_BS[0].tolist(), made.labels_BS[0].tolist()
        after = [*inputs[1:], -100]
        assert all(label in (-100, token) for label, token in zip(labels, after, strict=True))
        spoken = bytes(label for label in labels if label != -100).decode()
        assert spoken == "".join(f" {turn['value']}\x03" for turn in item["conversations"][1::2])


def test_an_image_takes_its_positions_and_images_come_in_reading_order(samples, proxies):
    one = samples.PreparedSet(str(proxies / "llava-proxy-finetune"), vocab_size=256, image_positions=16)
    made = one.batch([4, 3, 0])  # 3 has no image
    assert (made.inputs_BS == IMAGE).sum(1).tolist() == [16, 0, 16]
    assert made.images_NCHW.shape == (2, 3, 32, 32)
    assert made.images_NCHW[0].equal(one.batch([4]).images_NCHW[0])
    assert made.images_NCHW[1].equal(one.batch([0]).images_NCHW[0])
    assert one.batch([3]).images_NCHW.shape == (0, 3, 32, 32)


def test_the_mean_length_of_the_manifest_is_what_enters_the_model(samples, proxies):
    one = samples.PreparedSet(str(proxies / "llava-proxy-pretrain"))
    batches = [one.batch(list(range(at, at + 8))) for at in range(0, len(one), 8)]
    assert sum(made.real_tokens for made in batches) / len(one) == one.manifest["mean_length"]
    assert sum(made.padded_tokens for made in batches) > sum(made.real_tokens for made in batches)


def test_a_raw_image_is_its_bytes_normalised(samples, proxies):
    one = samples.PreparedSet(str(proxies / "llava-proxy-pretrain"))
    content = (proxies / "llava-proxy-pretrain" / "images" / "000007.rgb").read_bytes()
    image = one.batch([7]).images_NCHW[0]
    for channel, y, x in itertools.product(range(3), (0, 13, 31), (0, 5, 31)):
        value = content[(y * 32 + x) * 3 + channel] / 255
        mean, std = one.manifest["image"]["mean"][channel], one.manifest["image"]["std"][channel]
        assert float(image[channel, y, x]) == pytest.approx((value - mean) / std, abs=1e-6)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (336, 336), (50, 31), (31, 400), (337, 1000)])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_image_files_become_what_clips_own_preprocessor_makes(samples, fit, size):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow reads image files")
    import io

    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    form = {
        "encoding": "file",
        "fit": fit,
        "side": 336,
        "mean": list(DESCRIPTIONS["finetune"].image.mean),
        "std": list(DESCRIPTIONS["finetune"].image.std),
    }
    content = png(*size, seed=3)
    image = pillow.open(io.BytesIO(content)).convert("RGB")
    if fit == "pad":
        square = pillow.new("RGB", (max(size), max(size)), (122, 116, 104))
        square.paste(image, ((max(size) - size[0]) // 2, (max(size) - size[1]) // 2))
        image = square
    clip = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    wanted = clip(image, return_tensors="pt")["pixel_values"][0]
    found = samples.opener(form)(content)
    assert found.shape == wanted.shape == (3, 336, 336)
    assert float((found - wanted).abs().max()) < 1e-5


def test_both_stages_of_a_real_layout_are_read(samples, real):
    pytest.importorskip("PIL.Image", reason="Pillow reads image files")
    for stage in ("pretrain", "finetune"):
        images = str(real / DESCRIPTIONS[stage].images)
        one = samples.PreparedSet(str(real / "sets" / stage), images=images, image_positions=576)
        made = one.batch([0, 1, 2, 3])
        with_image = 4 if stage == "pretrain" else 3
        assert int((made.inputs_BS == IMAGE).sum()) == 576 * with_image
        assert made.images_NCHW.shape == (with_image, 3, 336, 336)


def test_questions_come_with_their_ids_and_end_where_the_answer_begins(samples, proxies):
    one = samples.PreparedSet(str(proxies / "mmmu-proxy"))
    ids = one.question_ids()
    assert len(ids) == len(set(ids)) == len(one) == 60
    made = one.batch([7])
    assert bytes(token for token in made.inputs_BS[0].tolist() if token >= 0).endswith(b" ASSISTANT:")
    assert set(made.labels_BS[0].tolist()) == {-100}


@pytest.mark.parametrize("name", ["tokens.i32", "learned.u8", "offsets.i64", "image.i32", "words.i32"])
def test_a_changed_or_cut_file_is_refused(samples, finetune, name):
    path = finetune / name
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(samples.SampleError, match=f"{name}: SHA-256"):
        samples.PreparedSet(str(finetune))
    path.write_bytes(content[:-8])
    with pytest.raises(samples.SampleError, match=f"{name}: .* bytes, not"):
        samples.PreparedSet(str(finetune))
    path.unlink()
    with pytest.raises(samples.SampleError, match=f"{name}: No such file"):
        samples.PreparedSet(str(finetune))


def test_a_shuffled_list_of_images_is_refused(samples, finetune):
    path = finetune / "images.sha256"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    with pytest.raises(samples.SampleError, match=r"images\.sha256: SHA-256"):
        samples.PreparedSet(str(finetune))


def test_an_edited_manifest_is_refused_by_the_planned_digest(samples, finetune):
    path = finetune / "manifest.json"
    planned = hashlib.sha256(path.read_bytes()).hexdigest()
    assert samples.PreparedSet(str(finetune), manifest_sha256=planned).sha256 == planned
    manifest = json.loads(path.read_text())
    manifest["files"].reverse()
    path.write_text(json.dumps(manifest))
    with pytest.raises(samples.SampleError, match=planned):
        samples.PreparedSet(str(finetune), manifest_sha256=planned)


def test_files_that_do_not_belong_together_are_refused_even_when_the_manifest_agrees(samples, finetune):
    path = finetune / "image.i32"
    path.write_bytes(path.read_bytes()[:-4])
    manifest = json.loads((finetune / "manifest.json").read_text())
    for file in manifest["files"]:
        if file["name"] == "image.i32":
            file["bytes"] -= 4
            file["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (finetune / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(samples.SampleError, match="do not belong together"):
        samples.PreparedSet(str(finetune))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"vocab_size": 255}, "a vocabulary of 256"), ({"image_positions": 576}, "16 positions here, 576")],
)
def test_a_set_made_for_another_model_is_refused(samples, proxies, options, words):
    with pytest.raises(samples.SampleError, match=words):
        samples.PreparedSet(str(proxies / "llava-proxy-finetune"), **options)


def test_a_missing_a_changed_and_a_damaged_image_are_named_with_their_sample(samples, real, tmp_path):
    pytest.importorskip("PIL.Image", reason="Pillow reads image files")
    images = shutil.copytree(real / DESCRIPTIONS["pretrain"].images, tmp_path / "images")
    one = samples.PreparedSet(str(real / "sets" / "pretrain"), images=str(images))
    (images / "00003" / "000000003.png").unlink()
    with pytest.raises(samples.SampleError, match=r"sample 3: image .*000000003\.png: No such file"):
        one.batch([0, 1, 2, 3])
    (images / "00005" / "000000005.png").write_bytes(png(9, 9, seed=9))
    with pytest.raises(samples.SampleError, match=r"sample 5: image .*000000005\.png: SHA-256"):
        one.batch([5])
    assert len(one.batch([0, 1, 2]).lengths_B) == 3


def test_an_image_that_pillow_cannot_open_is_named(samples, tmp_path):
    pytest.importorskip("PIL.Image", reason="Pillow reads image files")
    root = layout(tmp_path, "pretrain", pretrain_items(2))
    (root / "LLaVA-Pretrain/images/00001/000000001.png").write_bytes(png(20, 20, seed=1)[:60])
    multimodal.prepare(
        root, DESCRIPTIONS["pretrain"], name="s", tokenizer=tokenizers.Bytes(), folder=tmp_path / "sets"
    )
    one = samples.PreparedSet(str(tmp_path / "sets" / "s"), images=str(root / "LLaVA-Pretrain/images"))
    with pytest.raises(samples.SampleError, match=r"sample 1: image .*000000001\.png: "):
        one.batch([0, 1])


def test_without_pillow_image_files_are_refused_by_name_and_raw_ones_are_read(
    samples, real, proxies, monkeypatch
):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    images = str(real / DESCRIPTIONS["pretrain"].images)
    with pytest.raises(samples.SampleError, match="Pillow"):
        samples.PreparedSet(str(real / "sets" / "pretrain"), images=images)
    assert len(samples.PreparedSet(str(proxies / "llava-proxy-pretrain")).batch([0, 1]).lengths_B) == 2


def test_the_folder_of_images_has_to_be_named(samples, real):
    pytest.importorskip("PIL.Image", reason="Pillow reads image files")
    with pytest.raises(samples.SampleError, match="not named"):
        samples.PreparedSet(str(real / "sets" / "pretrain"))


def lengths(count, every):
    """Many lengths; each `every`-th sample has no image."""
    return [(-1 if number % every == 0 else 1) * (1 + (number * 37) % 91) for number in range(count)]


def steps(order, shape, count):
    """The sample indices of each global batch, by micro-batch in order, gathered from all ranks."""
    dp, mbs, gas = shape
    return [
        [
            order.micro_batch(step, part, dp_rank=rank, dp=dp, mbs=mbs, gas=gas)
            for part in range(gas)
            for rank in range(dp)
        ]
        for step in range(count)
    ]


def flat(step):
    return [index for micro_batch in step for index in micro_batch]


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 4, 2), (4, 4, 1), (8, 2, 1), (1, 16, 1)])
@pytest.mark.parametrize("count", [160, 173])
def test_every_sample_comes_once_an_epoch_over_all_ranks(grouping, shape, count):
    order = grouping.GroupedOrder(lengths(count, 3), 5, global_batch_size=16, micro_batch_size=shape[1])
    stream = [index for step in steps(order, shape, math.ceil(3 * count / 16)) for index in flat(step)]
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert stream[:count] != stream[count : 2 * count]


def test_a_global_batch_is_the_same_on_every_world_size(grouping):
    seen = []
    for shape in ((1, 4, 4), (2, 4, 2), (4, 4, 1)):
        order = grouping.GroupedOrder(lengths(173, 3), 5, global_batch_size=16, micro_batch_size=4)
        seen.append(steps(order, shape, 25))
    assert seen[0] == seen[1] == seen[2]
    # With other micro-batches the same samples are dealt otherwise.
    order = grouping.GroupedOrder(lengths(173, 3), 5, global_batch_size=16, micro_batch_size=2)
    other = steps(order, (8, 2, 1), 10)
    assert [sorted(flat(step)) for step in other] == [sorted(flat(step)) for step in seen[0][:10]]


def test_a_global_batch_is_of_one_modality_and_its_micro_batches_of_like_weight(grouping):
    known = lengths(960, 3)
    order = grouping.GroupedOrder(known, 5, global_batch_size=32, micro_batch_size=8)
    found = steps(order, (4, 8, 1), 30)
    mixed = [step for step in found if len({known[index] > 0 for index in flat(step)}) == 2]
    assert len(mixed) <= 2  # what is left over of both kinds
    for step in found:
        if step not in mixed:
            weights = [sum(abs(known[index]) for index in part) for part in step]
            assert max(weights) - min(weights) <= max(abs(known[index]) for index in flat(step))
    kinds = [known[step[0][0]] > 0 for step in found if step not in mixed]
    assert kinds != sorted(kinds)
    assert kinds != sorted(kinds, reverse=True)


def test_dealing_is_llavas_the_longest_first_to_the_lightest_with_room(grouping):
    known = lengths(64, 2)
    piece = list(range(3, 35))
    parts, weights = [[] for _ in range(4)], [0.0] * 4
    for index in sorted(piece, key=lambda one: -abs(known[one])):
        lightest = weights.index(min(weights))
        parts[lightest].append(index)
        weights[lightest] = math.inf if len(parts[lightest]) == 8 else weights[lightest] + abs(known[index])
    assert grouping.dealt(piece, known, mbs=8) == [index for part in parts for index in part]


def test_the_grouped_order_never_changes(grouping):
    expected = [2, 5, 4, 1, 7, 10, 11, 8, 9, 0, 6, 3]
    assert grouping.epoch_order(lengths(12, 3), 7, 0, gbs=4, mbs=2) == expected
    assert grouping.epoch_order(lengths(12, 3), 8, 0, gbs=4, mbs=2) != expected


@pytest.mark.parametrize("every", [1, 1000])
def test_one_modality_alone_is_grouped_by_length_too(grouping, every):
    known = [abs(length) * (-1 if every == 1 else 1) for length in lengths(64, 3)]
    order = grouping.GroupedOrder(known, 5, global_batch_size=16, micro_batch_size=4)
    assert sorted(index for step in steps(order, (2, 4, 2), 4) for index in flat(step)) == list(range(64))


def test_a_shape_other_than_the_planned_one_is_refused(grouping):
    order = grouping.GroupedOrder(lengths(64, 3), 5, global_batch_size=16, micro_batch_size=4)
    with pytest.raises(ValueError, match="micro-batches of 4 in 16"):
        order.micro_batch(0, 0, dp_rank=0, dp=2, mbs=2, gas=4)
    with pytest.raises(ValueError, match="no whole micro-batches"):
        grouping.GroupedOrder(lengths(64, 3), 5, global_batch_size=16, micro_batch_size=5)
    with pytest.raises(ValueError, match="none of length 0"):
        grouping.GroupedOrder([1, 0], 5, global_batch_size=2, micro_batch_size=1)


def test_prefetched_batches_are_those_made_one_by_one_in_order(samples, grouping, proxies):
    one = samples.PreparedSet(str(proxies / "llava-proxy-finetune"))
    shape = {"dp_rank": 1, "dp": 2, "mbs": 4, "gas": 2}

    def indices():
        order = grouping.GroupedOrder(one.words(), 1, global_batch_size=16, micro_batch_size=4)
        return samples.micro_batches(order, steps=range(5, 12), **shape)

    with samples.Prefetch(one.batch, indices()) as ahead:
        made = list(ahead)
        assert ahead.wait_s == pytest.approx(sum(batch.wait_s for batch in made))
    wanted = [one.batch(numbers) for numbers in indices()]
    assert len(made) == 14
    for found, expected in zip(made, wanted, strict=True):
        assert found.indices == expected.indices
        assert found.inputs_BS.equal(expected.inputs_BS)
        assert found.images_NCHW.equal(expected.images_NCHW)


def test_an_error_reaches_the_caller_in_its_turn_and_again(samples, finetune):
    one = samples.PreparedSet(str(finetune))
    (finetune / "images" / "000008.rgb").unlink()
    with samples.Prefetch(one.batch, [[0], [1], [8], [2]]) as ahead:
        assert [next(ahead).indices, next(ahead).indices] == [[0], [1]]
        for _ in range(2):
            with pytest.raises(samples.SampleError, match="sample 8: "):
                next(ahead)


def test_no_more_than_its_depth_is_made_ahead_and_closing_ends_a_full_one(samples, proxies):
    one = samples.PreparedSet(str(proxies / "llava-proxy-finetune"))
    made, third = [], threading.Event()

    def make(indices):
        made.append(indices)
        if len(made) == 3:
            third.set()
        return one.batch(indices)

    ahead = samples.Prefetch(make, ([number] for number in itertools.count()), depth=2)
    assert third.wait(WAIT_S)
    # The third is being made or waits for room; nobody asked yet, so there is no fourth.
    ahead.close()
    assert made == [[0], [1], [2]]
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())
    assert list(ahead) == []


def test_waiting_is_counted_where_it_happens(samples, proxies):
    one = samples.PreparedSet(str(proxies / "llava-proxy-finetune"))
    asked, go = threading.Event(), threading.Event()

    def make(indices):
        asked.set()
        assert go.wait(WAIT_S)
        return one.batch(indices)

    with samples.Prefetch(make, [[0], [1]], depth=1) as ahead:
        assert asked.wait(WAIT_S)
        release = threading.Timer(0.3, go.set)
        release.start()
        first = next(ahead)
        release.join()
        assert first.wait_s > 0.05
        assert ahead.wait_s == first.wait_s


def test_an_end_is_an_end(samples, proxies):
    one = samples.PreparedSet(str(proxies / "llava-proxy-finetune"))
    ahead = samples.Prefetch(one.batch, [[0]])
    assert len(list(ahead)) == 1
    assert list(ahead) == []
    ahead.close()
    ahead.close()
