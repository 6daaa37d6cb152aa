"""The models against their oracle, transformers, on small random checkpoints that it saved itself."""

import contextlib
import importlib
import sys
import types

import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.trainer

# Largest difference that we accept, relative to the largest value. Both do the same float32 arithmetic.
ROUNDING = {"float32": 1e-5, "bfloat16": 2e-2}

IMAGE_ID, PAD_ID, VOCABULARY = 299, 298, 300


@pytest.fixture(scope="module")
def trainer(tools):
    """The trainer's modules by name: in a container their folder is on the path."""
    names = ("attention", "clip", "generate", "job", "layouts", "llama", "llava", "weights")
    sys.path.insert(0, str(tools.trainer))
    try:
        yield types.SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(tools.trainer))


@pytest.fixture(scope="module")
def oracle():
    transformers = pytest.importorskip("transformers", reason="the oracle, transformers, is not installed")
    transformers.utils.logging.disable_progress_bar()
    return transformers


def llama_config(trainer, *, kv_heads=4, tied=False):
    return trainer.job.Model("llama", 32, 3, 4, kv_heads, 88, VOCABULARY, 1e-5, 10000.0, 0.02, tied)


def clip_config(trainer, *, feature_layer=-2):
    return trainer.job.Vision(24, 4, 3, 56, 28, 14, 1e-5, 0.02, feature_layer)


def llava_config(trainer, **language):
    return trainer.llava.LlavaConfig(llama_config(trainer, **language), clip_config(trainer), IMAGE_ID)


def their_llama_config(oracle, config):
    return oracle.LlamaConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        intermediate_size=config.ffn_hidden_size,
        vocab_size=config.vocab_size,
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tie_embeddings,
        initializer_range=0.2,
    )


def their_clip_config(oracle, config):
    return oracle.CLIPVisionConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.ffn_hidden_size,
        image_size=config.image_size,
        patch_size=config.patch_size,
        layer_norm_eps=config.norm_eps,
        initializer_factor=3.0,
    )


def their_llava(oracle, config):
    torch.manual_seed(5)
    theirs = oracle.LlavaForConditionalGeneration(
        oracle.LlavaConfig(
            vision_config=their_clip_config(oracle, config.vision),
            text_config=their_llama_config(oracle, config.language),
            image_token_index=IMAGE_ID,
        )
    )
    shake(theirs)
    return theirs.eval()


def shake(model):
    """Norms and biases too: all ones or all zeros they would hide a mix-up."""
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def saved_and_read(theirs, folder, *, dtype="float32", shards=None):
    """Read anew, because only so do their rotation angles stay in float32."""
    theirs = theirs.to(getattr(torch, dtype))
    theirs.save_pretrained(folder, **({"max_shard_size": shards} if shards else {}))
    assert (folder / "model.safetensors").exists() == (shards is None)
    return type(theirs).from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def loaded(trainer, folder, model, layout):
    trainer.weights.load(model, [str(folder)], layout)
    return model


def assert_close(ours, theirs, dtype="float32"):
    scale = theirs.abs().max().item()
    difference = (ours.float() - theirs.float()).abs().max().item()
    print("largest difference:", difference, "of", scale)
    assert scale > 1e-3
    assert difference <= ROUNDING[dtype] * scale


def random_ids(rows, length, seed=1):
    return torch.randint(0, 290, (rows, length), generator=torch.Generator().manual_seed(seed))


def after(labels):
    """Labels as our batches have them, of labels that stand at the token itself."""
    return F.pad(labels[:, 1:], (0, 1), value=-100)


def multimodal_batch():
    """(inputs, labels at the token itself, images, mask): a row of 19 tokens with an image of four positions
    and one of 24 with two images; answers labelled, padding on the right.
    """
    inputs = random_ids(2, 24)
    inputs[0, 2:6] = inputs[1, :4] = inputs[1, 9:13] = IMAGE_ID
    labels = inputs.clone()
    labels[0, :10] = labels[1, :15] = -100
    inputs[0, 19:], labels[0, 19:] = PAD_ID, -100
    mask = torch.ones_like(inputs)
    mask[0, 19:] = 0
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    return inputs, labels, pixels, mask


@pytest.mark.parametrize("shards", [None, "20KB"], ids=["one-file", "sharded"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kv_heads", "tied"), [(4, False), (2, False), (2, True)])
def test_llama_agrees_with_transformers(trainer, oracle, tmp_path, kv_heads, tied, dtype, shards):
    config = llama_config(trainer, kv_heads=kv_heads, tied=tied)
    torch.manual_seed(4)
    theirs = oracle.LlamaForCausalLM(their_llama_config(oracle, config))
    theirs = saved_and_read(theirs, tmp_path, dtype=dtype, shards=shards)
    ours = trainer.llama.Llama(config, recompute=False, seed=9).to(getattr(torch, dtype))
    loaded(trainer, tmp_path, ours, trainer.layouts.llama_layout(config))
    ids = random_ids(2, 40)
    with torch.no_grad():
        their = theirs(input_ids=ids, labels=ids)
        assert_close(ours.logits(ids), their.logits, dtype)
        assert_close(ours(ids, after(ids)), their.loss, dtype)


@pytest.mark.parametrize("feature_layer", [-1, -2, 2])
@pytest.mark.parametrize("whole", [True, False], ids=["with-text-half", "image-half"])
def test_the_tower_agrees_with_transformers(trainer, oracle, tmp_path, feature_layer, whole):
    config = clip_config(trainer, feature_layer=feature_layer)
    vision = their_clip_config(oracle, config)
    torch.manual_seed(4)
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    saved = (
        oracle.CLIPModel(oracle.CLIPConfig(vision_config=vision, text_config=text))
        if whole
        else oracle.CLIPVisionModel(vision)
    )
    shake(saved)
    saved.save_pretrained(tmp_path)
    ours = trainer.clip.Tower(config, seed=9)
    loaded(trainer, tmp_path, ours, trainer.layouts.clip_layout(config))
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    tower = saved.vision_model if whole else saved
    with torch.no_grad():
        states = tower(pixels, output_hidden_states=True).hidden_states
        assert_close(ours(pixels), states[feature_layer][:, 1:])


@pytest.mark.parametrize("shards", [None, "20KB"], ids=["one-file", "sharded"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_llava_agrees_with_transformers_in_loss_logits_and_gradients(
    trainer, oracle, tmp_path, dtype, shards
):
    config = llava_config(trainer, kv_heads=2)
    theirs = saved_and_read(their_llava(oracle, config), tmp_path, dtype=dtype, shards=shards)
    ours = trainer.llava.Llava(config, recompute=False, seed=9, stage="finetune").to(getattr(torch, dtype))
    loaded(trainer, tmp_path, ours, trainer.layouts.llava_layout(config))
    inputs, labels, pixels, mask = multimodal_batch()
    their = theirs(input_ids=inputs, pixel_values=pixels, attention_mask=mask, labels=labels)
    loss = ours(inputs, after(labels), pixels)
    real = mask.bool()
    assert_close(ours.logits(inputs, pixels)[real], their.logits[real], dtype)
    assert_close(loss, their.loss, dtype)
    loss.backward()
    their.loss.backward()
    gradients = {name: p.grad for name, p in theirs.model.multi_modal_projector.named_parameters()}
    for name, parameter in ours.multi_modal_projector.named_parameters():
        assert_close(parameter.grad, gradients[name], dtype)
    embedding = theirs.model.language_model.embed_tokens.weight.grad
    assert_close(ours.language_model.model.embed_tokens.weight.grad, embedding, dtype)


def test_padding_on_the_right_changes_neither_loss_nor_gradients(trainer):
    config = llava_config(trainer)
    inputs, labels, pixels, _ = multimodal_batch()
    labels = after(labels)
    seen = []
    for more in (0, 17):
        model = trainer.llava.Llava(config, recompute=False, seed=9)
        padded = F.pad(inputs, (0, more), value=PAD_ID)
        loss = model(padded, F.pad(labels, (0, more), value=-100), pixels)
        loss.backward()
        seen.append((loss.detach(), model.language_model.model.layers[0].mlp.up_proj.weight.grad))
    assert_close(seen[1][0], seen[0][0])
    assert_close(seen[1][1], seen[0][1])


def test_recomputing_llavas_activations_changes_nothing(trainer):
    inputs, labels, pixels, _ = multimodal_batch()
    gradients = []
    for recompute in (False, True):
        model = trainer.llava.Llava(llava_config(trainer), recompute=recompute, seed=9, stage="pretrain")
        model(inputs, after(labels), pixels).backward()
        gradients.append([p.grad for p in model.trainable("pretrain")])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_the_loss_is_the_mean_over_labelled_tokens_and_can_be_summed_up_over_ranks(trainer):
    model = trainer.llava.Llava(llava_config(trainer), recompute=False, seed=9)
    inputs, labels, pixels, _ = multimodal_batch()
    labels = after(labels)
    with torch.no_grad():
        together = model.loss(inputs, labels, pixels)
        rows = [
            model.loss(inputs[:1], labels[:1], pixels[:1]),
            model.loss(inputs[1:], labels[1:], pixels[1:]),
        ]
    assert int(together.labelled) == 9 + 9
    assert together.total.item() == pytest.approx(sum(row.total.item() for row in rows), rel=1e-5)
    assert together.mean.item() == pytest.approx(together.total.item() / 18)


def test_a_batch_without_labels_has_loss_zero_and_no_nan_in_its_gradients(trainer):
    model = trainer.llava.Llava(llava_config(trainer), recompute=False, seed=9, stage="finetune")
    inputs, labels, pixels, _ = multimodal_batch()
    loss = model(inputs, torch.full_like(labels, -100), pixels)
    loss.backward()
    assert loss.item() == 0.0
    assert all(not p.grad.any() for p in model.trainable("finetune"))


def test_words_alone_give_the_language_models_loss_and_every_parameter_a_gradient(trainer):
    config = llava_config(trainer)
    model = trainer.llava.Llava(config, recompute=False, seed=9, stage="finetune")
    llama = trainer.llama.Llama(config.language, recompute=False, seed=9)
    ids = random_ids(2, 12)
    loss = model(ids, after(ids), torch.empty(0, 3, 28, 28))
    loss.backward()
    assert torch.equal(loss, llama(ids, after(ids)))
    # DDP and ZeRO wait for each of them.
    assert all(p.grad is not None for p in model.trainable("finetune"))
    assert all(not p.grad.any() for p in model.trainable("pretrain"))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_only_the_weights_of_the_stage_change(trainer, stage):
    model = trainer.llava.Llava(llava_config(trainer), recompute=True, seed=9, stage=stage)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    inputs, labels, pixels, _ = multimodal_batch()
    for _ in range(3):
        optimizer.zero_grad()
        model(inputs, after(labels), pixels).backward()
        optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    trained = {
        "pretrain": ("multi_modal_projector.",),
        "finetune": ("multi_modal_projector.", "language_model."),
    }
    assert changed == {name for name in before if name.startswith(trained[stage])}
    assert {id(p) for p in model.trainable(stage)} == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_stage_that_is_none_is_refused(trainer):
    with pytest.raises(ValueError, match="stage: 'warmup' is none of pretrain, finetune"):
        trainer.llava.Llava(llava_config(trainer), recompute=False, seed=9, stage="warmup")


@pytest.mark.parametrize(("stage", "factor"), [("pretrain", 4), ("finetune", 6)])
def test_the_flops_of_a_stage_are_those_of_the_docstring(trainer, stage, factor):
    flop_counter = pytest.importorskip("torch.utils.flop_counter", reason="torch counts FLOPs from 2.1 on")
    pytest.importorskip("torch.nn.attention", reason="torch chooses kernels by name from 2.3 on")
    language = trainer.job.Model("llama", 128, 4, 4, 4, 344, 512, 1e-5, 10000.0, 0.02, False)
    vision = trainer.job.Vision(64, 4, 2, 256, 28, 14, 1e-5, 0.02, -2)
    model = trainer.llava.Llava(
        trainer.llava.LlavaConfig(language, vision, -200), recompute=False, seed=9, stage=stage
    )
    length, image = 16, 4
    inputs = random_ids(2, length)
    inputs[:, :image] = -200
    # Only this kernel is made of parts that the counter knows.
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with plain, flop_counter.FlopCounterMode(display=False) as counter:
        model(inputs, inputs.clamp(min=0), torch.zeros(2, 3, 28, 28)).backward()
    size = trainer.llama.num_parameters
    n = size(model.language_model) - size(model.language_model.model.embed_tokens)
    attention = 12 * language.num_layers * language.hidden_size * length
    images = 6 * size(model.multi_modal_projector) + 2 * size(model.vision_tower)
    expected = factor * n + attention + image / length * images
    found = counter.get_total_flops() / inputs.numel()
    print("counted:", found, "derived:", expected)
    assert found == pytest.approx(expected, rel=0.005)


def test_a_batch_whose_images_do_not_fill_its_places_is_refused(trainer):
    config = llava_config(trainer)
    inputs, _, pixels, _ = multimodal_batch()
    trainer.llava.check_images(inputs, pixels, config=config)
    with pytest.raises(ValueError, match="12 image positions in the batch, 2 images fill 8"):
        trainer.llava.check_images(inputs, pixels[:2], config=config)


def test_images_of_another_size_are_refused(trainer):
    tower = trainer.clip.Tower(clip_config(trainer), seed=9)
    with pytest.raises(ValueError, match=r"\(1, 3, 42, 42\), not \(N, 3, 28, 28\)"):
        tower(torch.zeros(1, 3, 42, 42))


def test_a_tower_that_cannot_be_is_refused_with_every_reason(trainer):
    config = trainer.job.Vision(24, 4, 5, 56, 30, 14, 1e-5, 0.02, -6)
    with pytest.raises(ValueError, match=r"image_size 30 .*hidden_size 24 .*feature_layer -6 of 4"):
        trainer.clip.Tower(config, seed=9)


def test_random_weights_come_again_and_no_two_tensors_share_a_draw(trainer):
    config = llava_config(trainer)
    one, two = (trainer.llava.Llava(config, recompute=False, seed=1).state_dict() for _ in range(2))
    alone = trainer.llama.Llama(config.language, recompute=False, seed=1).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(one["language_model." + name], alone[name]) for name in alone)
    # The ratio of two draws: the deviation, which differs from tensor to tensor, is out of it.
    firsts = [tensor.flatten()[:2].tolist() for tensor in one.values() if len(tensor.unique()) > 1]
    assert len({round(a / b, 4) for a, b in firsts}) == len(firsts) > 40


@pytest.mark.parametrize("length", [1, 7, 23])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_llama_generates_what_transformers_generates(trainer, oracle, tmp_path, kv_heads, length):
    config = llama_config(trainer, kv_heads=kv_heads)
    torch.manual_seed(4)
    theirs = oracle.LlamaForCausalLM(their_llama_config(oracle, config)).eval()
    theirs.save_pretrained(tmp_path)
    ours = trainer.llama.Llama(config, recompute=True, seed=9)
    loaded(trainer, tmp_path, ours, trainer.layouts.llama_layout(config))
    prompt = random_ids(1, length)[0]
    settings = {"do_sample": False, "max_new_tokens": 20, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones(1, length, dtype=torch.long)
    their = theirs.generate(prompt[None], attention_mask=mask, **settings)[0, length:].tolist()
    found = trainer.generate.generate(ours, prompt, max_new_tokens=20, end_ids=())
    assert found == their
    assert len(set(found)) > 5  # a model that repeats itself would prove little
    end = found[8]
    stopped = trainer.generate.generate(ours, prompt, max_new_tokens=20, end_ids=(end,))
    assert stopped == found[: found.index(end)]


def test_llava_generates_what_transformers_generates(trainer, oracle, tmp_path):
    config = llava_config(trainer)
    theirs = their_llava(oracle, config)
    theirs.save_pretrained(tmp_path)
    ours = trainer.llava.Llava(config, recompute=False, seed=9)
    loaded(trainer, tmp_path, ours, trainer.layouts.llava_layout(config))
    inputs, _, pixels, _ = multimodal_batch()
    settings = {"do_sample": False, "max_new_tokens": 16, "eos_token_id": None, "pad_token_id": 0}
    for prompt, images in ((inputs[0, :19], pixels[:1]), (inputs[1], pixels[1:])):
        their = theirs.generate(
            prompt[None],
            pixel_values=images,
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            **settings,
        )
        found = trainer.generate.generate(ours, prompt, images_NCHW=images, max_new_tokens=16, end_ids=())
        assert found == their[0, len(prompt) :].tolist()


def test_the_cache_changes_no_word(trainer):
    model = trainer.llama.Llama(llama_config(trainer, kv_heads=2), recompute=False, seed=9)
    shake(model)
    prompt = random_ids(1, 9)[0]
    found = trainer.generate.generate(model, prompt, max_new_tokens=15, end_ids=())
    words = prompt.tolist()
    with torch.no_grad():
        for _ in range(15):
            words.append(int(model.logits(torch.tensor([words]))[0, -1].argmax()))
    assert found == words[9:]


def test_a_finished_prompt_goes_on_while_other_ranks_need_its_forwards(trainer):
    model = trainer.llama.Llama(llama_config(trainer), recompute=False, seed=9)
    shake(model)
    prompt = random_ids(1, 9)[0]
    free = trainer.generate.generate(model, prompt, max_new_tokens=12, end_ids=())
    heard = []
    end = free[4]
    held = trainer.generate.generate(
        model, prompt, max_new_tokens=12, end_ids=(end,), all_done=lambda done: bool(heard.append(done))
    )
    first = free.index(end)
    assert held == free[:first]
    assert heard == [False] * first + [True] * (12 - first)


@pytest.fixture
def flash(trainer, monkeypatch):
    """A stand-in for the package flash_attn, with its layout (B, S, H, E) and its grouped heads."""

    def flash_attn_func(q, k, v, causal=False):
        assert q.dtype == k.dtype == v.dtype
        assert q.dtype in (torch.bfloat16, torch.float16)
        module.calls += 1
        q, k, v = (x.transpose(1, 2).double() for x in (q, k, v))
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2).to(torch.bfloat16)

    module = types.ModuleType("flash_attn")
    module.__version__, module.flash_attn_func, module.calls = "2.7.4", flash_attn_func, 0
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    trainer.attention.flash_attention.cache_clear()
    yield module
    trainer.attention.flash_attention.cache_clear()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_flash_attention_gets_the_layout_that_it_knows(trainer, flash, kv_heads, causal):
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(2, 4, 10, 8, generator=generator)
    k, v = (torch.randn(2, kv_heads, 10, 8, generator=generator).bfloat16() for _ in range(2))
    # Under autocast the rotation leaves q and k in float32.
    found = trainer.attention.attend(q, k.float(), v, "flash_attn_2", causal=causal)
    wanted = trainer.attention.attend(q.bfloat16(), k, v, "sdpa", causal=causal)
    assert flash.calls == 1
    assert found.shape == wanted.shape
    assert_close(found, wanted, "bfloat16")


def test_llama_runs_on_the_kernel_that_it_was_built_with(trainer, flash):
    config = llama_config(trainer, kv_heads=2)
    ids = random_ids(2, 12)
    logits = []
    for attention in ("sdpa", "flash_attn_2"):
        model = trainer.llama.Llama(config, recompute=False, seed=9, attention=attention).bfloat16()
        with torch.no_grad():
            logits.append(model.logits(ids))
    assert flash.calls == config.num_layers
    assert_close(logits[1], logits[0], "bfloat16")


def test_a_kernel_that_is_not_there_is_an_error_and_never_another_kernel(trainer, flash, monkeypatch):
    check, error = trainer.attention.check_attention, trainer.attention.AttentionError
    check("sdpa", "cpu")
    check("flash_attn_2", "cuda")
    with pytest.raises(error, match="flash_attn_2 has no kernel for cpu"):
        check("flash_attn_2", "cpu")
    with pytest.raises(error, match="'eager' is none of sdpa, flash_attn_2"):
        check("eager", "cuda")
    monkeypatch.setattr(flash, "__version__", "1.0.9")
    trainer.attention.flash_attention.cache_clear()
    with pytest.raises(error, match=r"needs flash_attn 2, found 1\.0\.9"):
        check("flash_attn_2", "cuda")
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(error, match="needs the package flash_attn"):
        check("flash_attn_2", "musa")
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(error))
        trainer.attention.attend(*[torch.zeros(1, 1, 2, 8)] * 3, "flash_attn_2", causal=True)
