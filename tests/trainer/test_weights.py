"""Weights in and out of safetensors folders: whatever the layout, however partitioned, whoever wrote them."""

import contextlib
import importlib
import json
import os
import socket
import struct
import subprocess
import sys
import types

import pytest

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.trainer

DEADLINE_S = 150.0


@pytest.fixture(scope="module")
def trainer(tools):
    """The trainer's modules by name: in a container their folder is on the path."""
    names = ("clip", "job", "layouts", "llama", "llava", "tensorfile", "weights")
    sys.path.insert(0, str(tools.trainer))
    try:
        yield types.SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(tools.trainer))


@pytest.fixture(scope="module")
def library():
    """The format's own library, to write and to read back with."""
    return pytest.importorskip("safetensors.torch", reason="the oracle, safetensors, is not installed")


def llava_config(trainer):
    language = trainer.job.Model("llama", 32, 2, 4, 2, 48, 64, 1e-5, 10000.0, 0.02, False)
    vision = trainer.job.Vision(16, 3, 2, 24, 28, 14, 1e-5, 0.02, -2)
    return trainer.llava.LlavaConfig(language, vision, -200)


def make_llava(trainer, *, seed, **how):
    return trainer.llava.Llava(llava_config(trainer), recompute=False, seed=seed, **how)


def noise(model, *, seed=3):
    """Every parameter changed, norms and biases too; name → tensor."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(t.shape, generator=generator) for name, t in model.state_dict().items()}
    model.load_state_dict(tensors)
    return tensors


def write(library, folder, tensors, *, shards=1, config=None):
    """A Hugging Face folder with these tensors, in so many files."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    if shards == 1:
        library.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        files = {
            name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)
        }
        for file in set(files.values()):
            library.save_file({n: tensors[n] for n in names if files[n] == file}, folder / file)
        index = {"metadata": {"total_size": 1}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def raw(folder, header, data=b""):
    """A file with this header, be it text or a value."""
    folder.mkdir(parents=True, exist_ok=True)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def renamed(tensors, *pairs):
    """The tensors that one of (ours, theirs) fits, under their names."""
    return {
        theirs + name[len(ours) :]: tensor
        for name, tensor in tensors.items()
        for ours, theirs in pairs
        if name.startswith(ours)
    }


def hugging_face(tensors):
    return renamed(
        tensors,
        ("vision_tower.", "vision_tower.vision_model."),
        ("multi_modal_projector.", "multi_modal_projector."),
        ("language_model.", "language_model."),
    )


def hugging_face_flat(tensors):
    return renamed(
        tensors,
        ("vision_tower.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
    )


def original(tensors):
    return renamed(
        tensors,
        ("multi_modal_projector.linear_1.", "model.mm_projector.0."),
        ("multi_modal_projector.linear_2.", "model.mm_projector.2."),
        *VICUNA,
    )


def original_with_tower(tensors):
    tower = renamed(tensors, ("vision_tower.", "model.vision_tower.vision_tower.vision_model."))
    return {**original(tensors), **tower}


VICUNA = (("language_model.model.", "model."), ("language_model.lm_head.", "lm_head."))


def clip_folder(tensors):
    """CLIP's own checkpoint: a text half, the layer and the norm behind what LLaVA reads, and old buffers."""
    tower = renamed(tensors, ("vision_tower.", "vision_model."))
    last = {name.replace(".1.", ".2."): t.clone() for name, t in tower.items() if ".layers.1." in name}
    rest = {
        "vision_model.post_layernorm.weight": torch.ones(16),
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
        "text_model.final_layer_norm.weight": torch.ones(8),
        "text_projection.weight": torch.ones(8, 8),
        "visual_projection.weight": torch.ones(8, 16),
        "logit_scale": torch.tensor(2.6),
    }
    return {**tower, **last, **rest}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", ["hugging_face", "hugging_face_flat", "original_with_tower"])
def test_llava_is_read_from_one_folder_of_any_published_layout(trainer, library, tmp_path, name, shards):
    source, model = make_llava(trainer, seed=1), make_llava(trainer, seed=2)
    tensors = noise(source)
    folder = write(library, tmp_path / "llava", globals()[name](tensors), shards=shards)
    trainer.weights.load(model, [folder], trainer.layouts.llava_layout(llava_config(trainer)))
    assert_holds(model, tensors)


def test_llava_as_first_published_takes_its_tower_from_clips_folder(trainer, library, tmp_path):
    source, model = make_llava(trainer, seed=1), make_llava(trainer, seed=2)
    tensors = noise(source)
    folders = [
        write(library, tmp_path / "llava", original(tensors), shards=2),
        write(library, tmp_path / "clip", clip_folder(tensors)),
    ]
    trainer.weights.load(model, folders, trainer.layouts.llava_layout(llava_config(trainer)))
    assert_holds(model, tensors)


def test_pretraining_starts_from_vicuna_and_clip_with_a_projector_of_its_own(trainer, library, tmp_path):
    source, model = make_llava(trainer, seed=1), make_llava(trainer, seed=2)
    born = {name: t.clone() for name, t in model.state_dict().items()}
    tensors = noise(source)
    vicuna = renamed(tensors, *VICUNA)
    vicuna["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    folders = [
        write(library, tmp_path / "vicuna", vicuna, shards=2),
        write(library, tmp_path / "clip", clip_folder(tensors)),
    ]
    layout = trainer.layouts.llava_layout(llava_config(trainer))
    trainer.weights.load(model, folders, layout, fresh=("multi_modal_projector.",))
    projector = {name for name in tensors if name.startswith("multi_modal_projector.")}
    assert_holds(model, {**tensors, **{name: born[name] for name in projector}})


def test_a_fresh_projector_is_refused_where_a_folder_has_one(trainer, library, tmp_path):
    model = make_llava(trainer, seed=2)
    folder = write(library, tmp_path / "llava", hugging_face(noise(make_llava(trainer, seed=1))))
    with refused(trainer, "'multi_modal_projector.linear_1.bias' is no parameter of this model"):
        trainer.weights.load(model, [folder], layout_of(trainer), fresh=("multi_modal_projector.",))


def test_the_projector_of_pretraining_goes_on_into_finetuning(trainer, library, tmp_path):
    trained, model = make_llava(trainer, seed=1, stage="pretrain"), make_llava(trainer, seed=2)
    tensors = noise(trained)
    rest = {name: t for name, t in tensors.items() if not name.startswith("multi_modal_projector.")}
    (tmp_path / "projector").mkdir()
    path = tmp_path / "projector" / "model.safetensors"
    trainer.weights.save(trained, str(path), prefix="multi_modal_projector.")
    read_back = library.load_file(path)
    assert set(read_back) == set(tensors) - set(rest)
    assert all(torch.equal(read_back[name], tensors[name]) for name in read_back)
    folders = [write(library, tmp_path / "rest", hugging_face(rest)), str(tmp_path / "projector")]
    trainer.weights.load(model, folders, layout_of(trainer))
    assert_holds(model, tensors)


@pytest.mark.parametrize("ours", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_numbers_are_converted_to_what_the_model_has(trainer, library, tmp_path, stored, ours):
    config = llava_config(trainer).language
    source = trainer.llama.Llama(config, recompute=False, seed=1)
    tensors = {name: t.to(getattr(torch, stored)) for name, t in noise(source).items()}
    model = trainer.llama.Llama(config, recompute=False, seed=2).to(getattr(torch, ours))
    trainer.weights.load(model, [write(library, tmp_path, tensors)], trainer.layouts.llama_layout(config))
    assert_holds(model, {name: t.to(getattr(torch, ours)) for name, t in tensors.items()})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_saved_reads_back_in_the_formats_own_library_and_here(trainer, library, tmp_path, dtype):
    config = llava_config(trainer).language
    source = trainer.llama.Llama(config, recompute=False, seed=1).to(getattr(torch, dtype))
    path = tmp_path / "model.safetensors"
    trainer.weights.save(source, str(path))
    assert list(tmp_path.iterdir()) == [path]
    read_back = library.load_file(path)
    assert {n: t.dtype for n, t in read_back.items()} == {n: t.dtype for n, t in source.state_dict().items()}
    assert all(torch.equal(read_back[name], t) for name, t in source.state_dict().items())
    model = trainer.llama.Llama(config, recompute=False, seed=2).to(getattr(torch, dtype))
    trainer.weights.load(model, [str(tmp_path)], trainer.layouts.llama_layout(config))
    assert_holds(model, source.state_dict())


def test_a_save_that_fails_leaves_the_file_that_was_there(trainer, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), trainer.tensorfile.new_file(str(path), 100):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"before"


def test_data_that_lies_unaligned_is_read(trainer, tmp_path):
    values = torch.arange(6, dtype=torch.float32)
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    for padding in range(4):
        text = json.dumps({"x": entry}).encode()
        text += b" " * (padding - (8 + len(text)) % 4)
        path = raw(tmp_path, text, struct.pack("<6f", *values.tolist()))
        stored = trainer.tensorfile.read_header(str(path))["x"]
        assert torch.equal(trainer.tensorfile.read_tensor(stored, {}), values.view(2, 3))


def test_everything_that_does_not_fit_is_named_at_once_and_nothing_is_changed(trainer, library, tmp_path):
    config = llava_config(trainer).language
    model = trainer.llama.Llama(config, recompute=False, seed=2)
    born = {name: t.clone() for name, t in model.state_dict().items()}
    tensors = noise(trainer.llama.Llama(config, recompute=False, seed=1))
    del tensors["model.norm.weight"], tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["lm_head.weight"] = torch.zeros(65, 32)
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(32)
    tensors["model.embed_tokens.weight"] = torch.zeros(64, 32, dtype=torch.int8)
    folder = write(library, tmp_path, tensors)
    with refused(
        trainer,
        "model.norm.weight: missing",
        "model.layers.1.mlp.up_proj.weight: missing",
        "'model.layers.0.self_attn.q_proj.bias' is no parameter of this model",
        "lm_head.weight is [65, 32], the model has [64, 32]",
        "model.embed_tokens.weight is I8, not F32/F16/BF16",
        number=5,
    ):
        trainer.weights.load(model, [folder], trainer.layouts.llama_layout(config))
    assert_holds(model, born)


def test_a_config_that_the_shapes_cannot_contradict_is_compared(trainer, library, tmp_path):
    config = llava_config(trainer).language
    model = trainer.llama.Llama(config, recompute=False, seed=2)
    theirs = {
        "model_type": "llama",
        "num_attention_heads": 8,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
    }
    folder = write(library, tmp_path, model.state_dict(), config=theirs)
    with refused(
        trainer,
        "num_attention_heads is 8, the model has 4",
        "rms_norm_eps is 1e-06, the model has 1e-05",
        "rope_scaling is {'type': 'linear', 'factor': 2.0}, the model has None",
        "rope_parameters.rope_theta is 500000.0, the model has 10000.0",
        number=4,
    ):
        trainer.weights.load(model, [folder], trainer.layouts.llama_layout(config))


def test_llavas_config_is_compared_in_each_of_its_parts(trainer, library, tmp_path):
    model = make_llava(trainer, seed=2)
    theirs = {
        "model_type": "llava",
        "vision_feature_layer": -1,
        "text_config": {"model_type": "llama", "num_key_value_heads": 4},
        "vision_config": {"model_type": "clip_vision_model", "hidden_act": "gelu", "num_hidden_layers": 3},
    }
    folder = write(library, tmp_path, hugging_face(model.state_dict()), config=theirs)
    with refused(
        trainer,
        "vision_feature_layer is -1, the model has -2",
        "text_config.num_key_value_heads is 4, the model has 2",
        "vision_config.hidden_act is 'gelu', the model has 'quick_gelu'",
        number=3,
    ):
        trainer.weights.load(model, [folder], layout_of(trainer))


def test_pickled_weights_are_not_read_and_the_way_out_is_said(trainer, tmp_path):
    config = llava_config(trainer).language
    model = trainer.llama.Llama(config, recompute=False, seed=2)
    # Unpickling this would make the folder "unpickled".
    (tmp_path / "pytorch_model.bin").write_bytes(f"cos\nmkdir\n(V{tmp_path}/unpickled\ntR.".encode())
    with refused(trainer, "pickled and reading them could run code", "save_pretrained", number=1):
        trainer.weights.load(model, [str(tmp_path)], trainer.layouts.llama_layout(config))
    assert not (tmp_path / "unpickled").exists()


def test_folders_that_hold_no_one_checkpoint_are_refused(trainer, library, tmp_path):
    config = llava_config(trainer).language
    model = trainer.llama.Llama(config, recompute=False, seed=2)
    tensors = dict(model.state_dict())
    both = write(library, tmp_path / "both", tensors, shards=2)
    write(library, tmp_path / "both", tensors)
    (tmp_path / "empty").mkdir()
    folders = [both, str(tmp_path / "empty"), str(tmp_path / "absent")]
    with refused(
        trainer,
        "both: holds model.safetensors.index.json and model.safetensors; which one is meant?",
        "empty: holds neither",
        "absent: holds neither",
        "(No such file or directory)",
        number=3,
    ):
        trainer.weights.load(model, folders, trainer.layouts.llama_layout(config))


def test_one_tensor_in_two_folders_is_refused(trainer, library, tmp_path):
    config = llava_config(trainer).language
    model = trainer.llama.Llama(config, recompute=False, seed=2)
    folder = write(library, tmp_path, dict(model.state_dict()))
    with refused(trainer, "'lm_head.weight' is stored twice", number=len(model.state_dict())):
        trainer.weights.load(model, [folder, folder], trainer.layouts.llama_layout(config))


def test_an_index_that_does_not_agree_with_its_files_is_refused(trainer, library, tmp_path):
    config = llava_config(trainer).language
    model = trainer.llama.Llama(config, recompute=False, seed=2)
    folder = write(library, tmp_path / "x", dict(model.state_dict()), shards=3)
    (tmp_path / "outside.safetensors").write_bytes(b"")
    path = tmp_path / "x" / "model.safetensors.index.json"
    names = json.loads(path.read_text())["weight_map"]
    first, second, third = sorted(set(names.values()))
    (tmp_path / "x" / third).unlink()
    os.mkfifo(tmp_path / "x" / "pipe.safetensors")
    del names["lm_head.weight"]
    names.update(
        a="../outside.safetensors", b="/etc/passwd", c="", d="\ud800", e="pipe.safetensors", f=second
    )
    path.write_text(json.dumps({"weight_map": names}))
    with refused(
        trainer,
        f"{first}: 'lm_head.weight' is not in the index",
        f"{second} has no 'f'",
        f"{third}'",
        "'../outside.safetensors' is no file name",
        "'/etc/passwd' is no file name",
        "'' is no file name",
        "surrogates not allowed",
        "pipe.safetensors: is no file",
        number=8,
    ):
        trainer.weights.load(model, [folder], trainer.layouts.llama_layout(config))


@pytest.mark.parametrize(
    "text", [b"[]", b"{", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}', b"\xff", b"[" * 99999]
)
def test_an_index_that_is_none_is_refused(trainer, tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_bytes(text)
    problems = []
    assert trainer.tensorfile.read_folder(str(tmp_path), problems) == {}
    assert len(problems) == 1


def entry(**changes):
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


HOSTILE = {
    "outside": ({"x": entry(shape=[4], data_offsets=[0, 16])}, "outside the file"),
    "negative": ({"x": entry(data_offsets=[-8, 0])}, "outside the file"),
    "backwards": ({"x": entry(data_offsets=[8, 0])}, "outside the file"),
    "far": ({"x": entry(data_offsets=[10**18, 10**18 + 8])}, "outside the file"),
    "overlapping": ({"x": entry(), "y": entry()}, "'y' overlaps"),
    "hole": ({"x": entry(shape=[1], data_offsets=[4, 8])}, "'x' leaves a hole"),
    "rest": ({"x": entry(shape=[1], data_offsets=[0, 4])}, "bytes announced"),
    "size": ({"x": entry(shape=[3])}, "8 bytes for F32 [3]"),
    "product": ({"x": entry(shape=[2**32, 2**32])}, "8 bytes for F32"),
    "boolean": ({"x": entry(shape=[True, 2])}, "shape [True, 2]"),
    "float": ({"x": entry(shape=[2.0])}, "shape [2.0]"),
    "dimensions": ({"x": entry(shape=[1] * 5000 + [2])}, "shape [1, 1"),
    "three-offsets": ({"x": entry(data_offsets=[0, 4, 8])}, "outside the file"),
    "dtype": ({"x": entry(dtype="Q7")}, "dtype 'Q7' is not known"),
    "unhashable": ({"x": entry(dtype=["F32"])}, "dtype ['F32'] is not known"),
    "more-keys": ({"x": entry(more=1)}, "not dtype, shape and data_offsets"),
    "no-object": ({"x": 5}, "not dtype, shape and data_offsets"),
    "list": (b"[]", "must be a JSON object"),
    "twice": (b'{"x":{},"x":{}}', "stands twice"),
    "deep": (b'{"x":' + b"[" * 200_000, "not readable as JSON"),
    "digits": (b'{"x":' + b"9" * 2_000_000 + b"}", "an integer of 2000000 digits"),
    "no-utf8": (b'{"\xff":1}', "not readable as JSON"),
    "control-characters": ({"\x1b[2J\n" * 100: 5}, r"'\x1b[2J\n\x1b[2J\n"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_a_clear_error(trainer, tmp_path, name):
    header, message = HOSTILE[name]
    path = raw(tmp_path, header, bytes(8))
    with refused(trainer, str(path), message, number=1):
        trainer.tensorfile.read_header(str(path))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x08", bytes(8), b"\xff" * 8, struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 3) + b"{}"],
    ids=["empty", "short", "no-header", "all-ones", "huge", "longer-than-the-file"],
)
def test_a_header_longer_than_its_file_is_a_clear_error(trainer, tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with refused(trainer, "no safetensors file"):
        trainer.tensorfile.read_header(str(path))


def test_a_header_that_would_fill_the_memory_is_refused_unread(trainer, tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**33))
        file.truncate(2**34)  # holes only: nothing is on the disk
    with refused(trainer, "header of 8589934592 bytes"):
        trainer.tensorfile.read_header(str(path))


def test_no_damage_to_a_header_gets_past_as_anything_but_an_error_or_the_same_tensors(
    trainer, library, tmp_path
):
    hypothesis = pytest.importorskip("hypothesis", reason="the property test needs hypothesis")
    from hypothesis import strategies

    library.save_file({"a": torch.ones(3, 2), "b": torch.zeros(5, dtype=torch.bfloat16)}, tmp_path / "x")
    sound = (tmp_path / "x").read_bytes()
    damage = strategies.lists(
        strategies.tuples(strategies.integers(0, len(sound) - 11), strategies.integers(0, 255)), min_size=1
    )

    @hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @hypothesis.given(damage)
    def check(changes):
        content = bytearray(sound)
        for at, value in changes:
            content[at] = value
        (tmp_path / "y").write_bytes(content)
        with contextlib.suppress(trainer.tensorfile.WeightsError):
            for stored in trainer.tensorfile.read_header(str(tmp_path / "y")).values():
                assert 8 <= stored.start <= stored.stop <= len(sound)
                if stored.dtype in trainer.tensorfile.TORCH_DTYPES:
                    trainer.tensorfile.read_tensor(stored, {})

    check()


# Two ranks of ZeRO-3: the first has a picture, the second words alone.
RANK = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
import deepspeed
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
import job, layouts, llava, weights

folder, target = sys.argv[2:4]
language = job.Model("llama", 32, 2, 4, 2, 48, 64, 1e-5, 10000.0, 0.02, False)
config = llava.LlavaConfig(language, job.Vision(16, 3, 2, 24, 28, 14, 1e-5, 0.02, -2), -200)
settings = {
    "train_micro_batch_size_per_gpu": 1,
    "steps_per_print": 10**9,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}
deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
with deepspeed.zero.Init(config_dict_or_path=settings):
    model = llava.Llava(config, recompute=True, seed=2, stage="finetune")
    weights.load(model, [folder], layouts.llava_layout(config))
assert all(p.numel() == 0 or p.ds_tensor.numel() < p.ds_numel for p in model.parameters())
weights.save(model, os.path.join(target, "loaded.safetensors"))
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
engine, _, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
rank = torch.distributed.get_rank()
batch = torch.load(os.path.join(target, "batch{}.pt".format(rank)), weights_only=True)
for _ in range(3):
    engine.backward(engine(*batch))
    engine.step()
weights.save(model, os.path.join(target, "trained.safetensors"))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_ranks_of_zero_3_load_train_and_save_what_one_process_does(trainer, tools, library, tmp_path):
    pytest.importorskip("deepspeed", reason="ZeRO-3 is DeepSpeed's")
    source = make_llava(trainer, seed=1, stage="finetune")
    tensors = {name: t * 0.2 for name, t in noise(source).items()}
    folder = write(library, tmp_path / "llava", hugging_face(tensors), shards=2)
    generator = torch.Generator().manual_seed(8)
    batches = []
    for rank, images in ((0, 1), (1, 0)):
        inputs, labels = torch.randint(0, 64, (2, 1, 12), generator=generator)
        inputs[0, 2 : 2 + 4 * images] = -200
        batches.append((inputs, labels, torch.randn(images, 3, 28, 28, generator=generator)))
        torch.save(batches[-1], tmp_path / f"batch{rank}.pt")
    run_ranks(tools, tmp_path, folder)

    assert_same(library.load_file(tmp_path / "loaded.safetensors"), tensors, tolerance=0.0)
    model = make_llava(trainer, seed=2, stage="finetune")
    trainer.weights.load(model, [folder], layout_of(trainer))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        for batch in batches:
            (model(*batch) / 2).backward()
        optimizer.step()
    found = library.load_file(tmp_path / "trained.safetensors")
    assert_same(found, model.state_dict(), tolerance=1e-5)
    still = {name for name in tensors if torch.equal(found[name], tensors[name])}
    assert still == {name for name in tensors if name.startswith("vision_tower.")}


def run_ranks(tools, tmp_path, folder):
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    environment = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "TMPDIR": str(tmp_path),
    }
    argv = [sys.executable, str(script), str(tools.trainer), folder, str(tmp_path)]
    logs = [tmp_path / f"rank{rank}.log" for rank in range(2)]
    with contextlib.ExitStack() as stack:
        ranks = []
        for rank, log in enumerate(logs):
            file = stack.enter_context(log.open("wb"))
            env = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = subprocess.Popen(argv, env=env, stdout=file, stderr=subprocess.STDOUT)
            stack.callback(process.wait)
            stack.callback(process.kill)
            ranks.append(process)
        codes = [process.wait(timeout=DEADLINE_S) for process in ranks]
    assert codes == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)


def layout_of(trainer):
    return trainer.layouts.llava_layout(llava_config(trainer))


@contextlib.contextmanager
def refused(trainer, *messages, number=None):
    """Every message is among the problems, of which there are so many."""
    with pytest.raises(trainer.tensorfile.WeightsError) as caught:
        yield
    text = str(caught.value)
    assert [message for message in messages if message not in text] == [], text
    if number is not None:
        assert len(text.splitlines()) == number, text


def assert_holds(model, tensors):
    found = dict(model.named_parameters())
    assert set(found) == set(tensors)
    assert [name for name in found if not torch.equal(found[name], tensors[name])] == []


def assert_same(found, wanted, *, tolerance):
    assert set(found) == set(wanted)
    worst = max((found[n] - wanted[n]).abs().max().item() / wanted[n].abs().max().item() for n in wanted)
    print("largest relative difference:", worst)
    assert worst <= tolerance
