"""`nx8 plan`"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.common import plan_options, request_of, workspace_of

if TYPE_CHECKING:
    from orchestrator.plan import Cell, Plan


@click.command("plan")
@plan_options
@click.option("--json", "as_json", is_flag=True, help="Print plan.json itself.")
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Show everything a run would do, and do nothing.

    Ranks, batch arithmetic, steps, files, and the exact commands with their environment.
    """
    from orchestrator.plan import to_json
    from orchestrator.request import contexts_of, data_dir, planned_for
    from orchestrator.selection import select
    from orchestrator.sources import prepared

    workspace, request = workspace_of(ctx), request_of(**given)
    selection = select(workspace, cases=request.cases, vendor=request.vendor, cluster=request.cluster)
    sources = prepared(selection, data_dir(workspace, selection), write=False)
    contexts = contexts_of(workspace, selection, request.options)
    planned = planned_for(workspace, selection, sources, contexts, request.options)
    click.echo(to_json(planned) if as_json else described(planned), nl=False)


def described(planned: Plan) -> str:
    """The plan in words, one block a cell."""
    head = [
        f"run      {planned.identity.run_id}   (this name and the nonce are new at every start)",
        f"cluster  {planned.cluster}, vendor {planned.vendor}, transport {planned.transport}",
        f"folder   {planned.identity.host_run_dir}",
    ]
    return "\n".join([*head, *(line for cell in planned.cells for line in _cell(cell))]) + "\n"


def _image(cell: Cell) -> list[str]:
    if cell.image is None:
        return []
    origin = cell.image.origin
    how = {
        "build": f"built once from {cell.image.base}, handed to the nodes that lack it",
        "each": f"built by every node from {cell.image.base}, the same on all or refused",
        "pull": f"pulled by every node: {origin.reference}",
        "host": f"built on this machine from {cell.image.base}, handed to the nodes that lack it",
    }
    lines = [f"image    {cell.image.tag}: {how[origin.source]}"]
    if origin.login is not None:
        held = origin.login.password_file or f"${origin.login.password_env}"
        lines.append(f"login    {origin.login.user} at {origin.login.registry}, password from {held}")
    return lines


def _cut(cell: Cell) -> str:
    cut = cell.job.parallel
    if cut is None:
        return f"ZeRO {cell.job.zero.stage}"
    said = [cell.job.parallel_label]
    said += [f"{cut.virtual_pipeline_size} pieces a stage"] if cut.virtual_pipeline_size > 1 else []
    said += [f"layers {'+'.join(map(str, cut.pipeline_layers))}"] if cut.pipeline_layers else []
    said += ["sequence parallel"] if cut.sequence_parallel else []
    said += ["optimizer sharded over DP"] if cut.shard_optimizer else []
    return ", ".join(said)


def _index(cell: Cell) -> list[str]:
    index = cell.job.data.index
    if index is None:
        return []
    return [f"index    {index.file}  {index.num_documents:,} documents  sha256 {index.sha256}"]


def _memory(cell: Cell) -> list[str]:
    memory = cell.memory
    if memory is None:
        return []
    unit, name = (1024**3, "GiB") if memory.fullest.total_bytes >= 1024**3 else (1024**2, "MiB")
    has = f"{memory.capacity_bytes / 1024**3:g} GiB" if memory.capacity_bytes else "memory that is not known"
    lines = [
        f"memory   estimate per rank, {name}; the device has {has}",
        *(
            f"  stage {one.stage}: {one.num_layers} layers, {one.num_parameters:,} parameters"
            f" {one.parameter_bytes / unit:.2f} + gradients {one.gradient_bytes / unit:.2f}"
            f" + optimizer {one.optimizer_bytes / unit:.2f}"
            f" + activations {one.activation_bytes / unit:.2f} ({one.in_flight} in flight)"
            f" = {one.total_bytes / unit:.2f}"
            for one in memory.stages
        ),
    ]
    names = "n parameters, s positions, b LBS, h hidden, kv key-value width, f feed-forward, a heads, V words"
    return [*lines, f"  = {memory.formula}", f"  {names}, t TP; {memory.source}"]


def _program(cell: Cell) -> list[str]:
    program = cell.job.program
    if program is None:
        return []
    environment = " ".join(f"{key}={shlex.quote(value)}" for key, value in program.environment.items())
    return [
        f"program  every rank, in {program.directory}:",
        f"  {environment} python3 {shlex.join(program.argv)}",
    ]


def _cell(cell: Cell) -> list[str]:
    job, batch = cell.job, cell.job.batch
    proxy = f"   proxy of {cell.proxy.of}: {cell.proxy.why}" if cell.proxy else ""
    peak = (
        f"{cell.peak.tflops:g} TFLOPS ({cell.peak.source})"
        if cell.peak.tflops
        else f"unknown: {cell.peak.reason}"
    )
    lines = [
        "",
        f"cell     {cell.cell_id}{proxy}",
        f"ranks    {cell.num_nodes} nodes × {cell.devices_per_node} devices = {batch.world_size},"
        f" engine {job.engine}, {_cut(cell)}, {job.device.type}/{job.device.backend}",
        f"batch    LBS {batch.micro_batch_size} × GAS {batch.gradient_accumulation_steps}"
        f" × DP {batch.data_parallel_size} = GBS {batch.global_batch_size} sequences"
        f" × MPE {batch.sequence_length}"
        f" = {batch.global_batch_size * batch.sequence_length:,} tokens a step",
        f"steps    {job.steps.warmup_steps} warm-up + {job.steps.measured_steps} measured"
        f" = {job.steps.total}",
        f"number   {job.precision.label} (computes in {job.precision.compute_dtype},"
        f" mechanism {job.precision.mechanism}), recompute {job.recompute},"
        f" attention {job.attention}, fix_hp {cell.fix_hp}",
        f"data     {job.data.file}  {job.data.num_tokens:,} tokens  sha256 {job.data.sha256}",
        *_index(cell),
        f"MFU      {cell.flops.multiplier} × {cell.flops.parameters:,} FLOPs a token;"
        f" {cell.peak.dtype} peak {peak}",
        f"limits   {cell.limits.startup_s:g} s to the first step, {cell.limits.stall_s:g} s between steps",
        *_memory(cell),
        *(f"warning  {one}" for one in cell.warnings or ()),
        *_program(cell),
        *_image(cell),
        f"config   sha256 {cell.config_hash}",
    ]
    for launch in cell.launches:
        environment = " ".join(f"{key}={shlex.quote(value)}" for key, value in launch.environment.items())
        lines += [
            f"on {launch.node}, ranks {', '.join(map(str, launch.ranks))}:",
            f"  {environment} {shlex.join(launch.argv)}",
        ]
    return lines
