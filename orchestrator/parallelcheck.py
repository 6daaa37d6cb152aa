"""What of a cut into tensor, pipeline and data parallel ranks does not fit or divide: every reason with its
arithmetic, before anything starts. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cases import ENGINES_3D
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.cases import Model, Parallel, Work
    from orchestrator.cluster import Cluster
    from orchestrator.memory import MemoryPlan

GIB = 1024**3


def uncuttable(name: str, work: Work, cluster: Cluster, *, has_image: bool) -> list[Problem]:
    """Everything that keeps `work` from being cut over the devices of `cluster` as it asks."""
    found = list(_engine(name, work, cluster, has_image=has_image))
    if work.parallel is None or work.engine not in ENGINES_3D:
        return found
    found += _ranks(name, work.parallel, cluster)
    found += _model(name, work.model, work.parallel, work)
    found += _stages(name, work.model, work.parallel, work)
    return found


def _engine(name: str, work: Work, cluster: Cluster, *, has_image: bool) -> Iterator[Problem]:
    if work.parallel is not None and work.engine not in ENGINES_3D:
        yield Problem(
            code="E347",
            message=f"{name}: engine {work.engine} knows data parallelism alone, and the case asks for "
            f"TP{work.parallel.tensor_parallel_size}PP{work.parallel.pipeline_parallel_size}",
            help=f"choose {' or '.join(ENGINES_3D)}: --set engine=native",
        )
    if work.engine in ENGINES_3D and work.model.architecture != "llama":
        yield Problem(
            code="E347",
            message=f"{name}: engine {work.engine} trains a llama, this is a {work.model.architecture}",
            help="choose deepspeed",
        )
    if work.recompute == "selective" and work.engine not in ENGINES_3D:
        yield Problem(
            code="E351",
            message=f"{name}: engine {work.engine} recomputes whole layers or nothing, not a part of them",
            help="choose recompute: full or none",
        )
    if work.engine == "megatron":
        if work.program is None:
            yield Problem(
                code="E350",
                message=f"{name}: engine megatron is an external program, and the case names none",
                help="add a program block to its case.yaml (docs/external.md)",
            )
        elif not has_image and not cluster.rehearsal:
            yield Problem(
                code="E350",
                message=f"{name}: {work.program.script} lies in the image of engine megatron, "
                "and transport 'local' starts ranks without one",
                help="take a cluster with transport 'ssh', or --set engine=native",
            )


def _ranks(name: str, cut: Parallel, cluster: Cluster) -> Iterator[Problem]:
    tp, pp = cut.tensor_parallel_size, cut.pipeline_parallel_size
    per_node = cluster.devices_per_node
    world = len(cluster.nodes) * per_node
    if world % (tp * pp):
        yield Problem(
            code="E340",
            message=f"{name}: {len(cluster.nodes)} nodes × {per_node} devices = {world} ranks, no multiple "
            f"of TP {tp} × PP {pp} = {tp * pp}",
            help="DP = ranks ÷ TP ÷ PP has to be a whole number: change parallel, or take other nodes",
        )
    if per_node % tp and not cluster.tensor_across_nodes:
        yield Problem(
            code="E346",
            message=f"{name}: tensor groups of {tp} do not fit into nodes of {per_node} devices "
            f"({per_node} ÷ {tp} leaves {per_node % tp}): a group would lie across nodes",
            help="its sums in every layer would go over the network; lower tensor_parallel_size, or say "
            "tensor_across_nodes: true in the cluster file",
        )


def _model(name: str, model: Model, cut: Parallel, work: Work) -> Iterator[Problem]:
    tp = cut.tensor_parallel_size
    # Words need not divide: both engines give the last rank fewer, or fill the vocabulary up.
    sizes = [
        ("num_heads", model.num_heads, "every rank has whole heads"),
        ("num_kv_heads", model.num_kv_heads, "every rank has whole groups of queries"),
        ("ffn_hidden_size", model.ffn_hidden_size, "columns of the feed-forward are divided evenly"),
    ]
    if cut.sequence_parallel:
        sizes.append(("sequence_length", work.batch.sequence_length, "positions are divided evenly"))
    for what, size, why in sizes:
        if size % tp:
            yield Problem(
                code="E343" if what in ("ffn_hidden_size", "sequence_length") else "E341",
                message=f"{name}: {what} {size} ÷ TP {tp} leaves {size % tp}",
                help=f"{why}: choose a tensor_parallel_size that divides {size}",
            )


def _stages(name: str, model: Model, cut: Parallel, work: Work) -> Iterator[Problem]:
    pp, v, layers = cut.pipeline_parallel_size, cut.virtual_pipeline_size, cut.pipeline_layers
    if layers is not None:
        if len(layers) != pp * v:
            of = f"PP {pp}" + (f" × {v} pieces = {pp * v}" if v > 1 else "")
            yield Problem(
                code="E342",
                message=f"{name}: pipeline_layers has {len(layers)} numbers, of {of} stages",
                help="one number for every stage, of an interleaved pipeline for every piece",
            )
        if sum(layers) != model.num_layers:
            yield Problem(
                code="E342",
                message=f"{name}: pipeline_layers {' + '.join(map(str, layers))} = {sum(layers)}, "
                f"the model has {model.num_layers} layers",
                help="every layer belongs to one stage",
            )
        if v > 1 and work.engine == "megatron":
            yield Problem(
                code="E344",
                message=f"{name}: pipeline_layers beside virtual_pipeline_size {v}",
                help="the program's interleaved pieces are of one length: leave one of the two away",
            )
    elif model.num_layers % (pp * v):
        pieces = f"PP {pp}" + (f" × {v} pieces = {pp * v}" if v > 1 else "")
        yield Problem(
            code="E342",
            message=f"{name}: {model.num_layers} layers ÷ {pieces} leaves {model.num_layers % (pp * v)}",
            help="choose a pipeline that divides them, or list pipeline_layers, one number for every stage",
        )
    if v > 1:
        if pp < 2:
            yield Problem(
                code="E344",
                message=f"{name}: virtual_pipeline_size {v} with PP {pp}: one stage cannot interleave",
                help="leave virtual_pipeline_size away",
            )
        gas = work.batch.gradient_accumulation_steps
        if gas % pp:
            yield Problem(
                code="E345",
                message=f"{name}: {gas} micro-batches (GAS) ÷ PP {pp} leaves {gas % pp}",
                help="an interleaved pipeline takes them in groups of PP: change gradient_accumulation_steps",
            )


def too_large(name: str, memory: MemoryPlan) -> list[Problem]:
    """Only what cannot be: parameters, gradients and optimizer are there at every moment."""
    if memory.capacity_bytes is None:
        return []
    worst = max(memory.stages, key=lambda stage: stage.parameter_bytes + stage.optimizer_bytes)
    held = worst.parameter_bytes + worst.optimizer_bytes
    if held <= memory.capacity_bytes:
        return []
    return [
        Problem(
            code="E348",
            message=f"{name}: a rank of stage {worst.stage} holds {worst.num_parameters:,} parameters: "
            f"{worst.parameter_bytes / GIB:.1f} GiB, and {worst.optimizer_bytes / GIB:.1f} GiB of optimizer, "
            f"together {held / GIB:.1f}; its device has {memory.capacity_bytes / GIB:.1f} GiB",
            help="cut the model further (parallel), shard the optimizer, or take more devices",
        )
    ]


def warnings(work: Work, memory: MemoryPlan | None) -> tuple[str, ...]:
    """What may go wrong, and may not: printed, never refused."""
    found = []
    cut, gas = work.parallel, work.batch.gradient_accumulation_steps
    if cut is not None and gas < cut.pipeline_parallel_size:
        pp = cut.pipeline_parallel_size
        found.append(
            f"{gas} micro-batches fill a pipeline of {pp} stages to {gas / (gas + pp - 1):.0%}: raise GAS"
        )
    if memory is not None and memory.capacity_bytes is not None:
        worst = memory.fullest
        if worst.total_bytes > memory.capacity_bytes:
            found.append(
                f"stage {worst.stage} may need {worst.total_bytes / GIB:.1f} GiB, its device has "
                f"{memory.capacity_bytes / GIB:.1f}: recompute, or a further cut"
            )
    return tuple(found)
