"""Our trainer on one accelerator beside Hugging Face Trainer and torchtitan's model: the same weights,
tokens, batch, recomputation and optimizer, in one run, in the order A B C … C B A.

Shapes: A is Llama 2 7B with 8 of its layers, nothing recomputed, so that what the trainer adds shows; B is
the whole of it, everything recomputed. bf16 by autocast over float32 weights, sequences of 4096 random
tokens, AdamW in one pass, gradients clipped at 1.

Every side is a process of its own. A figure is the median over its steps of the time from one step's end to
the next, the device synchronised at each end, on all sides alike. The share of the peak is PaLM's model FLOPs
utilisation; beside it stands the share of what a plain matrix product reached in the same run. A side whose
loss leaves ours by more than 2 % in one of the first five steps trained something else: its row is void.

`--rehearse` runs all of it in toy sizes on a CPU: that the script works, and no number worth keeping.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import functools
import gc
import importlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT_S = 3600
AGREEMENT = 2e-2
COMPARED = 5
SIDES = ("ours", "ours-compiled", "hf", "hf-compiled", "torchtitan")
SEED = 1234


@dataclass(frozen=True)
class Shape:
    """What is trained; sizes of the model and of the batch."""

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    ffn_hidden_size: int
    vocab_size: int
    sequence_length: int
    micro_batch_size: int
    recompute: bool
    warmup_steps: int
    timed_steps: int

    @property
    def steps(self) -> int:
        return self.warmup_steps + self.timed_steps

    @property
    def tokens_per_step(self) -> int:
        return self.micro_batch_size * self.sequence_length


SHAPES = {
    "A": Shape("7B-shaped, 8 layers, no recomputation", 4096, 8, 32, 11008, 32000, 4096, 4, False, 8, 25),
    "B": Shape("Llama 2 7B, full recomputation", 4096, 32, 32, 11008, 32000, 4096, 2, True, 8, 25),
}
TOY = {"hidden_size": 64, "num_heads": 4, "ffn_hidden_size": 176, "vocab_size": 256, "sequence_length": 64}


def main() -> None:
    said = arguments()
    if said.side:
        Path(said.out).write_text(json.dumps(side(said.side, said)))
        return
    rows: list[str] = []
    for name in said.shape:
        rows += compared(name, said)
    text = "\n".join(rows)
    print(text)
    if said.write:
        Path(said.write).write_text(text + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--shape", choices=tuple(SHAPES), nargs="+", default=list(SHAPES))
    options.add_argument("--sides", choices=SIDES, nargs="+", default=list(SIDES))
    options.add_argument("--rounds", type=int, choices=(1, 2), default=2, help="2: there and back again")
    options.add_argument("--micro-batch-size", type=int, help="instead of the shape's own")
    options.add_argument("--steps", type=int, help="timed steps, instead of 25")
    options.add_argument("--device-type", default="cuda")
    options.add_argument("--plugin", help="module that registers the device type")
    options.add_argument("--backend", default="nccl")
    options.add_argument("--vendor", default="nvidia", help="whose vendor.yaml has the peak")
    options.add_argument("--rehearse", action="store_true", help="toy sizes, on the CPU")
    options.add_argument("--write", metavar="FILE", help="the table, also into this file")
    options.add_argument("--side", choices=(*SIDES, "gemm"), help=argparse.SUPPRESS)
    options.add_argument("--out", help=argparse.SUPPRESS)
    said = options.parse_args()
    if said.rehearse:
        said.device_type, said.backend, said.plugin = "cpu", "gloo", None
    return said


def shape_of(name: str, said: argparse.Namespace) -> Shape:
    shape = SHAPES[name]
    if said.rehearse:
        toy = {**TOY, "num_layers": 2, "micro_batch_size": 2, "warmup_steps": COMPARED, "timed_steps": 3}
        shape = replace(shape, **toy)
    if said.micro_batch_size:
        shape = replace(shape, micro_batch_size=said.micro_batch_size)
    return replace(shape, timed_steps=said.steps) if said.steps else shape


def compared(name: str, said: argparse.Namespace) -> list[str]:
    """The Markdown of one shape. The matrix product is measured before, between and after."""
    order = [*said.sides, *reversed(said.sides)][: len(said.sides) * said.rounds]
    asked = ["gemm", *order[: len(said.sides)], "gemm", *order[len(said.sides) :], "gemm"]
    found: dict[str, list[dict]] = {}
    for one in asked:
        answer = run_side(one, name, said)
        print(f"{name} {one}: {summed_up(answer)}", file=sys.stderr, flush=True)
        found.setdefault(one, []).append(answer)
    return table(shape_of(name, said), found, said)


def run_side(one: str, name: str, said: argparse.Namespace) -> dict:
    """What a process of its own found, or {"error": …}."""
    with tempfile.TemporaryDirectory(prefix="nx8-accelerator-") as folder:
        out = Path(folder) / "out.json"
        argv = [sys.executable, __file__, "--side", one, "--shape", name, "--out", str(out)]
        argv += ["--device-type", said.device_type, "--backend", said.backend]
        for option in ("plugin", "micro_batch_size", "steps"):
            if getattr(said, option):
                argv += ["--" + option.replace("_", "-"), str(getattr(said, option))]
        if said.rehearse:
            argv.append("--rehearse")
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
        if done.returncode or not out.exists():
            lines = done.stderr.strip().splitlines() or ["nothing was said"]
            return {"error": lines[-1][:300]}
        return json.loads(out.read_text())


def summed_up(answer: dict) -> str:
    if "error" in answer:
        return f"not to be had: {answer['error']}"
    if "tflops" in answer:
        return f"{answer['tflops']:.1f} TFLOPS"
    return f"median step {statistics.median(answer['steps_s']):.4f} s, first {answer['first_s']:.1f} s"


def side(name: str, said: argparse.Namespace) -> dict:
    import torch

    if said.plugin:
        importlib.import_module(said.plugin)
    device = torch.device(said.device_type) if said.rehearse else torch.device(said.device_type, 0)
    shape = shape_of(said.shape[0], said)
    if name == "gemm":
        return gemm(device, said)
    return {**MAKERS[name](shape, device, said), **surroundings(device)}


def gemm(device, said) -> dict:
    """TFLOPS of a plain bf16 matrix product of 8192³; the median of ten."""
    import torch

    size = 256 if said.rehearse else 8192
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for _ in range(12):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(10):
            left @ right
        synchronize(device)
        rates.append(10 * 2 * size**3 / (time.perf_counter() - began) / 1e12)
    return {"tflops": statistics.median(rates[2:])}


def surroundings(device) -> dict:
    import torch

    module = getattr(torch, device.type)
    named = getattr(module, "get_device_name", lambda _=None: platform.processor() or platform.machine())
    most = getattr(module, "max_memory_allocated", None)
    versions = {"python": platform.python_version()}
    for name in ("torch", "transformers", "torchtitan", "triton"):
        with contextlib.suppress(ImportError):
            versions[name] = getattr(importlib.import_module(name), "__version__", "?")
    return {
        "device": named(device.index) if device.index is not None else named(),
        "peak_gib": most() / 2**30 if most and device.type != "cpu" else None,
        "versions": versions,
    }


def synchronize(device) -> None:
    import torch

    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


class Clock:
    """The ends of all steps, the device synchronised at each, and the first losses."""

    def __init__(self, device) -> None:
        self.device = device
        self.began_s = time.perf_counter()
        self.ends_s: list[float] = []
        self.losses: list[float] = []

    def step_ended(self) -> None:
        synchronize(self.device)
        self.ends_s.append(time.perf_counter())

    def answer(self, shape: Shape) -> dict:
        assert len(self.ends_s) == shape.steps, f"{len(self.ends_s)} steps of {shape.steps}"
        taken = [b - a for a, b in zip(self.ends_s, self.ends_s[1:], strict=False)]
        return {
            "steps_s": taken[shape.warmup_steps - 1 :],
            "first_s": self.ends_s[0] - self.began_s,
            "losses": self.losses[:COMPARED],
        }


@functools.cache
def trainer(module: str):
    """A module of cases/trainer, which is no package."""
    if str(ROOT / "cases" / "trainer") not in sys.path:
        sys.path.insert(0, str(ROOT / "cases" / "trainer"))
    return importlib.import_module(module)


def our_model(shape: Shape, device, *, recompute: bool):
    """Our Llama with weights drawn on the device: billions of draws on a CPU take minutes, and here it only
    matters that all sides get the same.
    """
    import torch

    llama = trainer("llama")

    def normal(name, size, *, std, seed):
        generator = torch.Generator(device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        return torch.nn.Parameter(torch.normal(0.0, std, size, generator=generator, device=device))

    llama.normal = normal
    sizes = asdict(shape)
    config = trainer("job").Model(
        architecture="llama",
        **{k: sizes[k] for k in ("hidden_size", "num_layers", "num_heads", "ffn_hidden_size", "vocab_size")},
        num_kv_heads=shape.num_heads,
        norm_eps=1e-5,
        rope_theta=10000.0,
        init_std=0.02,
        tie_embeddings=False,
    )
    return llama.Llama(config, recompute=recompute, seed=SEED).to(device)


def tokens(shape: Shape):
    """(inputs, labels) of every step, each (B, S), on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    size = (shape.steps, shape.micro_batch_size, shape.sequence_length + 1)
    windows = torch.randint(0, shape.vocab_size, size, generator=generator)
    return [(window[:, :-1].contiguous(), window[:, 1:].contiguous()) for window in windows]


def the_job(shape: Shape, said):
    """As much of a job as the engine reads."""
    jobs = trainer("job")
    return argparse.Namespace(
        engine="ddp",
        device=jobs.Device(said.device_type, None, said.backend, None),
        batch=jobs.Batch(shape.sequence_length, shape.micro_batch_size, 1, 1, 1, shape.micro_batch_size),
        optimizer=jobs.Optimizer("adamw", 3e-4, 0.1, 0.9, 0.95, 1e-8, 1.0),
        precision=jobs.Precision("bf16", "bf16", "autocast"),
        zero=argparse.Namespace(stage=0),
    )


def ours(shape: Shape, device, said, *, compiled: bool) -> dict:
    """The trainer's own engine: DDP over one rank."""
    import torch
    import torch.distributed as dist

    job = the_job(shape, said)
    store = dist.FileStore(str(Path.cwd() / "store"), 1)
    dist.init_process_group(said.backend, store=store, rank=0, world_size=1)
    place = trainer("device").Device(job.device, 0)
    clock = Clock(device)

    def build():
        model = our_model(shape, device, recompute=shape.recompute)
        if compiled:
            for layer in model.model.layers:
                layer.compile()
            model.loss = torch.compile(model.loss)
        return model

    engine = trainer("engine").make_engine(job, place, build)
    for inputs, labels in tokens(shape):
        loss, _ = engine.step([(inputs.to(device), labels.to(device))])
        clock.losses.append(float(loss))
        clock.step_ended()
    found = engine.found()
    dist.destroy_process_group()
    return {**clock.answer(shape), "flops_per_token": found["flops_per_token"]}


def hf(shape: Shape, device, said, *, compiled: bool) -> dict:
    """Hugging Face Trainer as it comes: bf16, SDPA, its own fused AdamW, loader and logging off."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback

    clock = Clock(device)
    weights = our_model(shape, device, recompute=False).state_dict()
    with device:
        model = LlamaForCausalLM(LlamaConfig(**hf_sizes(shape)))
    model.load_state_dict(weights)
    del weights
    gc.collect()

    class Ends(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            clock.step_ended()
            control.should_log = state.global_step <= COMPARED

        def on_log(self, args, state, control, logs=None, **_):
            if logs and "loss" in logs:
                clock.losses.append(float(logs["loss"]))

    class InOrder(Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    InOrder(
        model=model,
        args=hf_arguments(shape, said, compiled=compiled),
        train_dataset=hf_rows(shape),
        callbacks=[Ends()],
    ).train()
    return clock.answer(shape)


def hf_sizes(shape: Shape) -> dict:
    return {
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_heads,
        "intermediate_size": shape.ffn_hidden_size,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.sequence_length,
        "rms_norm_eps": 1e-5,
        "use_cache": False,
        "tie_word_embeddings": False,
        "attn_implementation": "sdpa",
        "bos_token_id": None,
        "eos_token_id": None,
    }


def hf_arguments(shape: Shape, said, *, compiled: bool):
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir="hf",
        use_cpu=said.device_type == "cpu",
        bf16=True,
        per_device_train_batch_size=shape.micro_batch_size,
        max_steps=shape.steps,
        learning_rate=3e-4,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_epsilon=1e-8,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        gradient_checkpointing=shape.recompute,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        torch_compile=compiled,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        remove_unused_columns=False,
        seed=SEED,
    )


def hf_rows(shape: Shape) -> list[dict]:
    """One row a sequence; `shift_labels` are next tokens, which spares it the shift and the last position."""
    return [
        {"input_ids": row, "labels": label, "shift_labels": label}
        for inputs, labels in tokens(shape)
        for row, label in zip(inputs, labels, strict=True)
    ]


def torchtitan(shape: Shape, device, said) -> dict:
    """torchtitan's Llama 3 model with Llama 2's sizes, its own recomputation and its own compilation of every
    block, in a plain loop. Written against 0.2.2.
    """
    import torch
    from torch.nn import functional
    from torchtitan.config.job_config import ActivationCheckpoint, Compile
    from torchtitan.distributed.activation_checkpoint import apply_ac
    from torchtitan.models.llama3.infra.parallelize import apply_compile
    from torchtitan.models.llama3.model.args import RoPEScalingArgs, TransformerModelArgs
    from torchtitan.models.llama3.model.model import Transformer

    clock = Clock(device)
    sizes = TransformerModelArgs(
        dim=shape.hidden_size,
        n_layers=shape.num_layers,
        n_heads=shape.num_heads,
        n_kv_heads=shape.num_heads,
        vocab_size=shape.vocab_size,
        multiple_of=titan_multiple(shape),
        norm_eps=1e-5,
        rope_theta=10000.0,
        rope_scaling_args=RoPEScalingArgs(scaling_factor=1.0),
        max_seq_len=shape.sequence_length,
    )
    weights = our_model(shape, device, recompute=False).state_dict()
    with device, torch.no_grad():
        model = Transformer(sizes)
        model.init_weights(buffer_device=device)
    missing = model.load_state_dict(dict(titan_weights(weights, shape)), strict=False)
    assert not missing.unexpected_keys, missing
    assert all("freqs" in key for key in missing.missing_keys), missing
    del weights
    gc.collect()
    if shape.recompute:
        apply_ac(model, ActivationCheckpoint(mode="full"), model_compile_enabled=True)
    apply_compile(model, Compile(enable=True))

    @torch.compile
    def loss_of(logits, labels):
        return functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True
    )
    for inputs, labels in tokens(shape):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = loss_of(model(inputs.to(device)), labels.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.losses.append(float(loss))
        clock.step_ended()
    return clock.answer(shape)


def titan_multiple(shape: Shape) -> int:
    """The rounding that makes its ffn width, from 8/3 of the hidden size, ours."""
    width = int(8 * shape.hidden_size / 3)
    return next(
        multiple
        for multiple in (256, 128, 64, 32, 16, 8, 4, 2, 1)
        if math.ceil(width / multiple) * multiple == shape.ffn_hidden_size
    )


def titan_weights(weights: dict, shape: Shape):
    """Our names → its own; its rotation pairs neighbouring rows of a head, ours its halves."""
    names = {
        "self_attn.q_proj": "attention.wq",
        "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.embed_tokens": "tok_embeddings",
        "lm_head": "output",
    }
    for key, weight in weights.items():
        new = key
        for old, its in names.items():
            new = new.replace(old, its)
        if new.endswith(("attention.wq.weight", "attention.wk.weight")):
            heads = weight.view(shape.num_heads, 2, -1, shape.hidden_size)
            yield new.removeprefix("model."), heads.transpose(1, 2).reshape(weight.shape)
        else:
            yield new.removeprefix("model."), weight


MAKERS = {
    "ours": functools.partial(ours, compiled=False),
    "ours-compiled": functools.partial(ours, compiled=True),
    "hf": functools.partial(hf, compiled=False),
    "hf-compiled": functools.partial(hf, compiled=True),
    "torchtitan": torchtitan,
}


def table(shape: Shape, found: dict[str, list[dict]], said: argparse.Namespace) -> list[str]:
    good = {one: [a for a in answers if "error" not in a] for one, answers in found.items()}
    known = next((a for answers in good.values() for a in answers if "device" in a), {"device": "?"})
    flops = next((a["flops_per_token"] for a in good.get("ours", []) + good.get("ours-compiled", [])), None)
    ceiling = statistics.median(a["tflops"] for a in good["gemm"]) if good["gemm"] else None
    peak = peak_tflops(known["device"], said.vendor)
    versions: dict[str, str] = {}
    for answers in good.values():
        for answer in answers:
            versions.update(answer.get("versions", {}))
    mark = " (REHEARSAL: toy sizes on a CPU, no figure of it means anything)" if said.rehearse else ""
    truth = next((a["losses"] for a in good.get("ours", []) + good.get("ours-compiled", [])), [])
    against = {"flops": flops, "peak": peak, "ceiling": ceiling, "truth": truth}
    return [
        f"### {shape.name}{mark}",
        "",
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, {known['device']}, "
        + ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        + f"; {shape.micro_batch_size} × {shape.sequence_length} tokens a step"
        f", {shape.timed_steps} timed steps, order {' '.join(said.sides)}{' and back' * (said.rounds == 2)}"
        f"; matrix product {figure(ceiling, '.1f')} TFLOPS, peak {figure(peak, 'g')} TFLOPS",
        "",
        "| side | token/s median | best | MFU | of the product | first step s | peak GiB | losses agree |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(row(one, found.get(one, []), shape, **against) for one in said.sides),
        "",
    ]


def row(one: str, answers: list[dict], shape: Shape, *, flops, peak, ceiling, truth) -> str:
    errors = [a["error"] for a in answers if "error" in a]
    if errors or not answers:
        return f"| {one} | / | / | / | / | / | / | not to be had: {(errors or ['?'])[0].replace('|', ' ')} |"
    apart = max(farthest(a["losses"], truth) for a in answers)
    if not apart <= AGREEMENT:
        return f"| {one} | void | void | void | void | void | void | no: {apart:.1e} apart |"
    steps_s = [seconds for a in answers for seconds in a["steps_s"]]
    speed = shape.tokens_per_step / statistics.median(steps_s)
    cells = [
        one,
        f"{speed:.0f}",
        f"{shape.tokens_per_step / min(steps_s):.0f}",
        figure(speed * flops / peak / 1e10 if flops and peak else None, ".1f", " %"),
        figure(speed * flops / ceiling / 1e10 if flops and ceiling else None, ".1f", " %"),
        " ".join(f"{a['first_s']:.1f}" for a in answers),
        figure(answers[0]["peak_gib"], ".1f"),
        f"{apart:.1e}",
    ]
    return "| " + " | ".join(cells) + " |"


def farthest(losses: list[float], truth: list[float]) -> float:
    """The largest relative difference in the first steps; infinite when not all were told or are numbers."""
    if len(losses) < COMPARED or len(truth) < COMPARED:
        return math.inf
    apart = [abs(a / b - 1) for a, b in zip(losses, truth, strict=True)]
    return max(apart) if all(map(math.isfinite, apart)) else math.inf  # max() passes over NaN


def figure(value, form: str, unit: str = "") -> str:
    return "/" if value is None else format(value, form) + unit


def peak_tflops(device: str, vendor: str) -> float | None:
    """The dense bf16 peak that vendor.yaml has for the device whose name holds one of its models'."""
    import yaml

    listed = yaml.safe_load((ROOT / "dockerfiles" / vendor / "vendor.yaml").read_text("utf-8"))["devices"]
    for model in sorted(listed, key=len, reverse=True):
        if model in device:
            return listed[model]["peaks"]["bf16"]["tflops"]
    return None


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
