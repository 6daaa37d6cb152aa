"""Stands in for FlagScale's pretrain_llama.py in a rehearsal, where no accelerator could run the real one.

It takes the arguments that the real program takes and refuses any other, refuses sizes that do not divide as
the real one does, opens the .bin and .idx, meets the other ranks, trains a bigram model on the data's real
tokens, and prints what the real program prints, on the ranks that print it. Its speed says nothing. Standard
library and torch; Python 3.8+.

STAND_IN_FAULT makes it fail in a way that a test names: see FAULTS. STAND_IN_TRUTH is a file where the last
rank writes what it printed, as numbers.
"""

from __future__ import annotations

import argparse
import array
import json
import math
import os
import struct
import sys
import time
from datetime import datetime

import torch
import torch.distributed as dist

#: What an iteration computes at least: a clock from outside cannot tell times of a few milliseconds apart.
LEAST_ITERATION_S = 0.25
#: What a test may ask for: `WHAT` or `WHAT@ITERATION`.
FAULTS = (
    "exit",  # the last rank leaves with code 3
    "hang",  # every rank waits for ever
    "nan",  # a loss that is no number
    "times",  # iteration times that no clock saw
    "bursts",  # lines are held back, and come together at every fourth iteration
    "uncounted",  # its lines do not count nan and skipped iterations
    "skip_line",  # an iteration line is missing
    "consumed",  # consumed samples that do not follow
    "batch",  # another global batch in the arguments it prints
    "silent_end",  # exit 0 without a word about the end
)
PADDED_TO = 128  # --make-vocab-size-divisible-by


def arguments() -> argparse.Namespace:
    given = argparse.ArgumentParser(allow_abbrev=False)
    for name in (
        "train-samples",
        "eval-iters",
        "tensor-model-parallel-size",
        "pipeline-model-parallel-size",
        "micro-batch-size",
        "global-batch-size",
        "num-layers",
        "hidden-size",
        "num-attention-heads",
        "ffn-hidden-size",
        "seq-length",
        "max-position-embeddings",
        "seed",
        "log-interval",
    ):
        given.add_argument("--" + name, type=int, required=True)
    for name in ("weight-decay", "adam-beta1", "adam-beta2", "clip-grad", "lr", "init-method-std"):
        given.add_argument("--" + name, type=float, required=True)
    for name in ("attention-dropout", "hidden-dropout"):
        given.add_argument("--" + name, type=float, default=0.1)
    given.add_argument("--min-lr", type=float, default=0.0)
    given.add_argument("--lr-warmup-fraction", type=float, default=None)
    given.add_argument("--lr-decay-style", choices=("constant", "linear", "cosine"), default="linear")
    given.add_argument("--adam-eps", type=float, default=1e-8)
    given.add_argument("--norm-epsilon", type=float, default=1e-5)
    given.add_argument("--rotary-base", type=float, default=10000.0)
    given.add_argument("--num-query-groups", type=int, default=1)
    given.add_argument("--num-layers-per-virtual-pipeline-stage", type=int, default=None)
    given.add_argument("--pipline-num-layers-list", type=int, nargs="+", default=None)
    given.add_argument("--multiple-of", type=int, default=None)
    given.add_argument("--data-path", required=True)
    given.add_argument("--split", default="969, 30, 1")
    given.add_argument("--tokenizer-type", choices=("Llama2Tokenizer", "NullTokenizer"), required=True)
    given.add_argument("--tokenizer-model", default=None)
    given.add_argument("--vocab-size", type=int, default=None)
    given.add_argument("--normalization", choices=("LayerNorm", "RMSNorm"), default="LayerNorm")
    given.add_argument("--recompute-granularity", choices=("full", "selective"), default=None)
    given.add_argument("--recompute-method", choices=("uniform", "block"), default=None)
    given.add_argument("--recompute-num-layers", type=int, default=None)
    for name in (
        "disable-bias-linear",
        "use-distributed-optimizer",
        "use-flash-attn",
        "bf16",
        "fp16",
        "group-query-attention",
        "use-rotary-position-embeddings",
        "no-position-embedding",
        "swiglu",
        "sequence-parallel",
        "untie-embeddings-and-output-weights",
        "recompute-activations",
        "overlap-grad-reduce",
    ):
        given.add_argument("--" + name, action="store_true")
    return given.parse_args()


def checked(args: argparse.Namespace, world_size: int) -> None:
    """As the real program refuses sizes: before anything else, on every rank."""
    tp, pp = args.tensor_model_parallel_size, args.pipeline_model_parallel_size
    assert world_size % (tp * pp) == 0, "world size {} is not divisible by {}".format(world_size, tp * pp)
    args.world_size, args.rank = world_size, int(os.environ["RANK"])
    args.data_parallel_size = world_size // (tp * pp)
    per_step = args.micro_batch_size * args.data_parallel_size
    assert args.global_batch_size % per_step == 0, "global batch {} is no multiple of {}".format(
        args.global_batch_size, per_step
    )
    assert args.num_attention_heads % tp == 0, "heads"
    groups = args.num_query_groups if args.group_query_attention else args.num_attention_heads
    assert groups % tp == 0, "query groups"
    if args.pipline_num_layers_list is None:
        assert args.num_layers % pp == 0, "layers"
    else:
        assert len(args.pipline_num_layers_list) == pp, "one number of layers for every stage"
        assert sum(args.pipline_num_layers_list) == args.num_layers, "layers of the stages"
    assert args.max_position_embeddings >= args.seq_length, "positions"
    assert not (args.bf16 and args.fp16), "bf16 and fp16"
    args.train_iters = args.train_samples // args.global_batch_size
    if args.tokenizer_type == "NullTokenizer":
        assert args.vocab_size, "--vocab-size"
        words = args.vocab_size + 1
    else:
        assert args.tokenizer_model and os.path.isfile(args.tokenizer_model), "--tokenizer-model"
        words = 32000
    args.padded_vocab_size = math.ceil(words / (PADDED_TO * tp)) * PADDED_TO * tp


class Tokens:
    """The .bin by its .idx: all documents one behind the other."""

    TYPES = {1: "B", 3: "h", 4: "i", 8: "H"}

    def __init__(self, prefix: str) -> None:
        with open(prefix + ".idx", "rb") as file:
            head = struct.Struct("<9sQBQQ")
            magic, version, code, self.num_sequences, documents = head.unpack(file.read(head.size))
            assert (magic, version) == (b"MMIDIDX\x00\x00", 1), "not an index"
            lengths = array.array("i")
            lengths.frombytes(file.read(4 * self.num_sequences))
        self.num_documents = documents - 1
        self._kind = array.array(self.TYPES[code])
        self._path = prefix + ".bin"
        self.num_tokens = sum(lengths)
        size = os.path.getsize(self._path)
        assert size == self.num_tokens * self._kind.itemsize, "the index is of another .bin"

    def sample(self, number: int, length: int) -> torch.Tensor:
        """Tokens of one sample and the one behind it; from the beginning again when they are used up."""
        start = (number * length) % (self.num_tokens - length - 1)
        found = array.array(self._kind.typecode)
        with open(self._path, "rb") as file:
            file.seek(start * found.itemsize)
            found.frombytes(file.read((length + 1) * found.itemsize))
        return torch.tensor(found.tolist(), dtype=torch.long)


def learning_rate(args: argparse.Namespace, iteration: int) -> float:
    """Of `iteration` from 1, as Megatron's scheduler has it."""
    if args.lr_decay_style == "constant":
        return args.lr
    warmup = (args.lr_warmup_fraction or 0.0) * args.train_iters
    if warmup and iteration <= warmup:
        return args.lr * iteration / warmup
    along = min(1.0, (iteration - warmup) / max(1.0, args.train_iters - warmup))
    share = 0.5 * (1 + math.cos(math.pi * along)) if args.lr_decay_style == "cosine" else 1 - along
    return args.min_lr + (args.lr - args.min_lr) * share


def now() -> str:
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")


def say_arguments(args: argparse.Namespace, fault: str) -> None:
    print(
        "using world size: {}, data-parallel size: {}, context-parallel size: 1, "
        "tensor-model-parallel size: {}, pipeline-model-parallel size: {} ".format(
            args.world_size,
            args.data_parallel_size,
            args.tensor_model_parallel_size,
            args.pipeline_model_parallel_size,
        )
    )
    print("------------------------ arguments ------------------------")
    values = dict(vars(args))
    if fault == "batch":
        values["global_batch_size"] += 1
    for name in sorted(values):
        print("  {} {} {}".format(name, "." * (48 - len(name)), values[name]))
    print("-------------------- end of arguments ---------------------")
    print("> building {} tokenizer ...".format(args.tokenizer_type))


def say(lines: list[str]) -> None:
    """Prints them and forgets them; several a moment apart, as they leave a buffer."""
    for number, line in enumerate(lines):
        time.sleep(0.02 if number else 0.0)
        print(line)
    lines.clear()


def main() -> int:
    args = arguments()
    checked(args, int(os.environ["WORLD_SIZE"]))
    fault, _, at = os.environ.get("STAND_IN_FAULT", "").partition("@")
    assert fault in ("", *FAULTS), fault
    dist.init_process_group("gloo")
    rank, last = args.rank, args.world_size - 1
    tokens = Tokens(args.data_path)
    if rank == 0:
        say_arguments(args, fault)
        print(
            " > loaded {}: {} tokens in {} documents".format(
                args.data_path, tokens.num_tokens, tokens.num_documents
            )
        )
        print("training ...")
        print("[before the start of training step] datetime: {} ".format(now()))
    torch.manual_seed(args.seed)
    weight = torch.zeros(args.padded_vocab_size, args.padded_vocab_size, requires_grad=True)
    data_rank = rank // args.tensor_model_parallel_size % args.data_parallel_size
    each = args.global_batch_size // args.data_parallel_size
    truth, held = [], []
    for iteration in range(1, args.train_iters + 1):
        hit = bool(fault) and iteration == int(at or 0)
        began = time.perf_counter()
        first = (iteration - 1) * args.global_batch_size + data_rank * each
        rows = torch.stack([tokens.sample(first + i, args.seq_length) for i in range(each)])
        loss = torch.nn.functional.cross_entropy(weight[rows[:, :-1].reshape(-1)], rows[:, 1:].reshape(-1))
        (gradient,) = torch.autograd.grad(loss, weight)
        work = torch.ones(64, 64)
        while time.perf_counter() - began < LEAST_ITERATION_S:
            work = torch.tanh(work @ work)
        dist.all_reduce(gradient)
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        gradient /= args.world_size
        with torch.no_grad():
            weight -= 100.0 * gradient
        if hit and fault == "exit" and rank == last:
            sys.stdout.flush()
            os._exit(3)
        while hit and fault == "hang":
            time.sleep(1)
        dist.barrier()
        elapsed_ms = 1000 * (time.perf_counter() - began) / (8 if fault == "times" else 1)
        value = math.nan if hit and fault == "nan" else float(mean) / args.world_size
        consumed = iteration * args.global_batch_size + (7 if hit and fault == "consumed" else 0)
        truth.append(
            {
                "step": iteration,
                "total_steps": args.train_iters,
                "consumed_samples": consumed,
                "step_time_s": elapsed_ms / 1000,
                "learning_rate": learning_rate(args, iteration),
                "global_batch_size": args.global_batch_size,
                "loss": value,
                "loss_scale": 1.0,
                "grad_norm": float(gradient.norm()),
                "skipped": 0,
                "nan": 0,
            }
        )
        if rank == last and not (hit and fault == "skip_line"):
            line = (
                " [{}] iteration {:8d}/{:8d} | consumed samples: {:12d} | "
                "elapsed time per iteration (ms): {:.1f} | learning rate: {:.3E} | "
                "global batch size: {:5d} | "
                "lm loss: {:.6E} | loss scale: 1.0 | grad norm: {:.3f} |".format(
                    now(),
                    iteration,
                    args.train_iters,
                    consumed,
                    elapsed_ms,
                    learning_rate(args, iteration),
                    args.global_batch_size,
                    value,
                    float(gradient.norm()),
                )
            )
            counts = " number of skipped iterations: {:3d} | number of nan iterations: {:3d} |"
            held.append(line + counts.format(0, int(math.isnan(value))) * (fault != "uncounted"))
        if fault != "bursts" or iteration % 4 == 1:
            say(held)
    if rank == 0 and fault != "silent_end":
        print("[after training is done] datetime: {} ".format(now()))
    if rank == last and os.environ.get("STAND_IN_TRUTH"):
        with open(os.environ["STAND_IN_TRUTH"], "w") as file:
            json.dump(truth, file)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
