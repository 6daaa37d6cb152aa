"""What one rank's device has to hold: parameters, gradients, optimizer and activations, by pipeline stage,
with the formula that says so. An estimate from sizes alone. Pure.

Bytes of a parameter, its gradient and Adam's state: Megatron-LM, docs on the distributed optimizer (16-bit
parameters with float32 gradients: 2 + 4 + 12, float32: 4 + 4 + 8; sharded, the last term ÷ DP).
Activations are counted as arXiv:2205.05198, section 4, counts them, term by term, here for a decoder with
RMSNorm, grouped queries and SwiGLU and without dropout. Not counted: the device's own context, communication
buffers, fragmentation: the published rows show some 12 GiB of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.memory import MemoryPlan, StageMemory

if TYPE_CHECKING:
    from orchestrator.plan import BatchPlan, ModelPlan, ParallelPlan, PrecisionPlan

SOURCE = (
    "parameters, gradients, Adam: Megatron-LM's table for its distributed optimizer; "
    "activations: counted as in arXiv:2205.05198, section 4"
)


def layers_of(num_layers: int, parallel: ParallelPlan) -> tuple[int, ...]:
    """Layers of each pipeline stage; of an interleaved one, of all its pieces: piece i lies on stage i mod
    PP.
    """
    pp = parallel.pipeline_parallel_size
    if parallel.pipeline_layers is not None:
        return tuple(sum(parallel.pipeline_layers[stage::pp]) for stage in range(pp))
    return (num_layers // pp,) * pp


def estimate(
    model: ModelPlan,
    parallel: ParallelPlan,
    batch: BatchPlan,
    precision: PrecisionPlan,
    *,
    recompute: str,
    attention: str,
    capacity_bytes: int | None,
) -> MemoryPlan:
    """The model is one that `parallel` divides (plancheck's word)."""
    tp, pp, dp = parallel.tensor_parallel_size, parallel.pipeline_parallel_size, batch.data_parallel_size
    half = precision.compute_dtype in ("bf16", "fp16")
    size = 2 if half else 4
    shards = dp if parallel.shard_optimizer else 1
    kept = _layer_bytes(model, parallel, batch, size=size, recompute=recompute, attention=attention)
    whole = _layer_bytes(model, parallel, batch, size=size, recompute="none", attention=attention)
    stages = []
    for stage, num_layers in enumerate(layers_of(model.num_layers, parallel)):
        first, last = stage == 0, stage == pp - 1
        parameters = num_layers * _layer_parameters(model, tp) + last * model.hidden_size
        parameters += (first + (last and (pp > 1 or not model.tie_embeddings))) * (
            model.num_embedding_parameters // tp
        )
        waiting = in_flight(parallel, stage, batch.gradient_accumulation_steps)
        activations = waiting * kept * num_layers // parallel.virtual_pipeline_size
        if recompute == "full":
            activations += whole  # of the one layer whose forward is being repeated
        if last:
            activations += (
                (size + 4) * batch.sequence_length * batch.micro_batch_size * model.vocab_size // tp
            )
        stages.append(
            StageMemory(
                stage=stage,
                num_layers=num_layers,
                num_parameters=parameters,
                parameter_bytes=parameters * size,
                gradient_bytes=parameters * 4,
                optimizer_bytes=parameters * (12 if half else 8) // shards,
                in_flight=waiting,
                activation_bytes=activations,
            )
        )
    return MemoryPlan(
        stages=tuple(stages),
        formula=_formula(size, shards, recompute=recompute, attention=attention, parallel=parallel),
        source=SOURCE,
        capacity_bytes=capacity_bytes,
    )


def in_flight(parallel: ParallelPlan, stage: int, micro_batches: int) -> int:
    """How many micro-batches' activations stage `stage` (from 0) holds at most. 1F1B: the stages behind it
    and itself; interleaved (arXiv:2104.04473, section 2.2): pieces of 1 ÷ v of the stage's layers.
    """
    pp, v = parallel.pipeline_parallel_size, parallel.virtual_pipeline_size
    if v == 1:
        return min(micro_batches, pp - stage)
    return min(micro_batches * v, 2 * (pp - stage - 1) + (v - 1) * pp + 1)


def _layer_parameters(model: ModelPlan, tp: int) -> int:
    """Of one tensor rank: matrices are divided, the two norms are not."""
    head = model.hidden_size // model.num_heads
    attention = 2 * model.hidden_size**2 + 2 * model.hidden_size * head * model.num_kv_heads
    return (attention + 3 * model.hidden_size * model.ffn_hidden_size) // tp + 2 * model.hidden_size


def _layer_bytes(
    model: ModelPlan,
    parallel: ParallelPlan,
    batch: BatchPlan,
    *,
    size: int,
    recompute: str,
    attention: str,
) -> int:
    """Kept of one layer and one micro-batch until its backward, on one tensor rank."""
    tp = parallel.tensor_parallel_size
    positions = batch.sequence_length * batch.micro_batch_size
    shared = tp if parallel.sequence_parallel else 1
    if recompute == "full":
        return size * positions * model.hidden_size // shared
    kv = model.num_kv_heads * (model.hidden_size // model.num_heads)
    around = 4 * model.hidden_size // shared  # input and output of two norms
    inside = (2 * model.hidden_size + 2 * kv + 3 * model.ffn_hidden_size) // tp
    scores = 0
    if attention == "sdpa" and recompute == "none":
        scores = 2 * model.num_heads * batch.sequence_length // tp  # a kernel that keeps them; many do not
    return size * positions * (around + inside + scores)


def _formula(size: int, shards: int, *, recompute: str, attention: str, parallel: ParallelPlan) -> str:
    optimizer = 12 if size == 2 else 8
    shared = "÷ t" if parallel.sequence_parallel else ""
    per_layer = f"4·h {shared}".strip() + " + (2·h + 2·kv + 3·f) ÷ t"
    if attention == "sdpa" and recompute == "none":
        per_layer += " + 2·a·s ÷ t"
    kept = f"{size}·s·b·({per_layer})"
    if recompute == "full":
        kept = f"{size}·s·b·h {shared}".strip()
    return (
        f"n·({size} + 4 + {optimizer}{f' ÷ {shards}' if shards > 1 else ''}) "
        f"+ layers × in flight × {kept}; last stage + {size + 4}·s·b·V ÷ t"
        + ("; one layer whole while it is repeated" if recompute == "full" else "")
    )
