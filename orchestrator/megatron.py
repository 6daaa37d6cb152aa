"""A case's values → the arguments of FlagScale's and Megatron-LM's pretraining programs. Pure.

The order and the words are those of the published run (FlagPerf, training/benchmarks/llama2_70B/megatron);
what that run left at the program's default is left there, and named only where a case wants it otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.plan import Job, ProgramPlan

if TYPE_CHECKING:
    from orchestrator.cases import Program, Work

#: The program's own defaults (Megatron-LM, megatron/arguments.py): said only where a case differs.
DEFAULT_NORM_EPS, DEFAULT_ROPE_THETA, DEFAULT_ADAM_EPS = 1e-5, 10000.0, 1e-8
#: Arguments whose value is a path of one cluster.
PATHS = ("--data-path", "--tokenizer-model")


def program(work: Work, job: Job, *, tokenizer: str, stand_in: str | None = None) -> ProgramPlan:
    """What every rank of the external program runs; `tokenizer` is the data's own, by its manifest's name.
    `stand_in` is the folder of what a rehearsal on this machine runs in its place.
    """
    assert work.program is not None, "the planner refuses a case without one"
    given = work.program
    environment = dict(given.environment)
    if job.precision.compute_dtype == "tf32":
        environment["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"] = "1"  # torch alone would multiply in float32
    directory = stand_in or given.directory
    return ProgramPlan(
        directory=directory,
        argv=(f"{directory}/{given.script}", *arguments(work, job, given, tokenizer=tokenizer)),
        environment=environment,
        dialect="megatron",
    )


def arguments(work: Work, job: Job, given: Program, *, tokenizer: str) -> tuple[str, ...]:
    """The words behind the script, group by group."""
    return (
        *_training(work, job),
        *_precision(job),
        *_data(job, given, tokenizer),
        *_network(work, job, given),
        *_optimization(work, job),
        *_recompute(work),
        "--log-interval",
        "1",
    )


def train_samples(job: Job, *, num_tokens: int | None) -> int:
    """Sequences that the program is told to consume: it makes as many whole iterations as they fill.

    The published number, all sequences that the case's tokens make, where the plan goes through all of
    them; a shorter plan's own product otherwise.
    """
    gbs, total = job.batch.global_batch_size, job.steps.total
    whole = (num_tokens or 0) // job.batch.sequence_length
    return whole if whole // gbs == total else total * gbs


def without_paths(program: ProgramPlan) -> list[str]:
    """Its argv without what lies elsewhere on another cluster, the script by its name in the program's
    folder: equal words, same work.
    """
    script, *words = program.argv
    kept = [word for before, word in zip(program.argv, words, strict=False) if before not in PATHS]
    return [script.removeprefix(f"{program.directory}/"), *kept]


def _training(work: Work, job: Job) -> tuple[str, ...]:
    cut, batch = job.parallel, job.batch
    tp = cut.tensor_parallel_size if cut else 1
    pp = cut.pipeline_parallel_size if cut else 1
    words = [
        *("--train-samples", str(train_samples(job, num_tokens=work.data.num_tokens))),
        *("--eval-iters", "0"),
        *("--tensor-model-parallel-size", str(tp)),
        *("--pipeline-model-parallel-size", str(pp)),
    ]
    if cut is not None and cut.virtual_pipeline_size > 1:
        per_piece = job.model.num_layers // (pp * cut.virtual_pipeline_size)
        words += ("--num-layers-per-virtual-pipeline-stage", str(per_piece))
    if cut is not None and cut.pipeline_layers is not None:
        # FlagScale's own word for uneven stages, spelled as its argument parser spells it.
        words += ("--pipline-num-layers-list", *map(str, cut.pipeline_layers))
    words += (
        *("--micro-batch-size", str(batch.micro_batch_size)),
        *("--global-batch-size", str(batch.global_batch_size)),
        "--disable-bias-linear",
    )
    if cut is not None and cut.shard_optimizer:
        words.append("--use-distributed-optimizer")
    if cut is not None and cut.overlap:
        words += ("--overlap-grad-reduce",)
    if job.attention == "flash_attn_2":
        words.append("--use-flash-attn")
    return tuple(words)


def _precision(job: Job) -> tuple[str, ...]:
    return {"bf16": ("--bf16",), "fp16": ("--fp16",)}.get(job.precision.compute_dtype, ())


def _data(job: Job, given: Program, tokenizer: str) -> tuple[str, ...]:
    """The data's name without its endings: the program adds .bin and .idx itself."""
    folder = job.data.file.rpartition("/")[0]
    words = ["--data-path", job.data.file.removesuffix(".bin")]
    if (
        tokenizer == "bytes"
    ):  # no file of a tokenizer: ids are taken as they are, the last one ends a document
        words += ("--tokenizer-type", "NullTokenizer", "--vocab-size", str(job.model.vocab_size - 1))
    else:
        model = f"{folder}/{given.tokenizer_model}"
        words += ("--tokenizer-type", given.tokenizer_type, "--tokenizer-model", model)
    return (*words, "--split", "1")


def _network(work: Work, job: Job, given: Program) -> tuple[str, ...]:
    model, length = job.model, str(job.batch.sequence_length)
    words = [
        *("--num-layers", str(model.num_layers)),
        *("--hidden-size", str(model.hidden_size)),
        *("--num-attention-heads", str(model.num_heads)),
        *("--ffn-hidden-size", str(model.ffn_hidden_size)),
        *("--seq-length", length),
        *("--max-position-embeddings", length),
        *("--normalization", "RMSNorm"),
    ]
    if model.num_kv_heads != model.num_heads:
        words += ("--group-query-attention", "--num-query-groups", str(model.num_kv_heads))
    words += ("--use-rotary-position-embeddings", "--no-position-embedding", "--swiglu")
    words += given.arguments
    if model.norm_eps != DEFAULT_NORM_EPS:
        words += ("--norm-epsilon", _real(model.norm_eps))
    if model.rope_theta != DEFAULT_ROPE_THETA:
        words += ("--rotary-base", _real(model.rope_theta))
    if work.parallel is not None and work.parallel.sequence_parallel:
        words.append("--sequence-parallel")
    if not model.tie_embeddings:
        words.append("--untie-embeddings-and-output-weights")
    return (*words, "--init-method-std", _real(model.init_std), "--seed", str(job.seed))


def _optimization(work: Work, job: Job) -> tuple[str, ...]:
    optimizer, schedule = job.optimizer, work.optimizer.schedule
    words = [
        *("--attention-dropout", "0.0"),
        *("--hidden-dropout", "0.0"),
        *("--weight-decay", _real(optimizer.weight_decay)),
        *("--adam-beta1", _real(optimizer.beta1)),
        *("--adam-beta2", _real(optimizer.beta2)),
        *("--clip-grad", _real(optimizer.gradient_clipping)),
    ]
    if optimizer.eps != DEFAULT_ADAM_EPS:
        words += ("--adam-eps", _real(optimizer.eps))
    words += ("--lr", _real(optimizer.learning_rate))
    if schedule is None:
        return (*words, "--lr-decay-style", "constant")
    return (
        *words,
        *("--min-lr", _real(schedule.minimum)),
        *("--lr-decay-style", schedule.shape),
        *("--lr-warmup-fraction", _real(schedule.warmup_fraction)),
    )


def _recompute(work: Work) -> tuple[str, ...]:
    """Selective is attention's alone; full is every layer, one by one."""
    if work.recompute == "none":
        return ()
    if work.recompute == "selective":
        return ("--recompute-activations",)
    return (
        *("--recompute-granularity", "full"),
        *("--recompute-method", "uniform"),
        *("--recompute-num-layers", "1"),
    )


def _real(value: float) -> str:
    """As Python writes it: the program reads it back to the same number."""
    return repr(float(value))
