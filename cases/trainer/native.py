"""Our own engine: tensor, pipeline and data parallelism in any combination, docs/parallel.md.

It needs of torch and of a backend what all of them have: sums, messages and broadcasts.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional

import job as jobs
import torch
import torch.distributed as dist
from engine import DTYPES, EngineError, LossScaler, dtype_name, fused_works, module_facts, set_rate
from flat import Flat
from grid import grid_of, layers_of_chunks
from groups import OUT, Groups
from pipeline import Pipeline
from stage import Chunk, Split
from torch import nn

if TYPE_CHECKING:
    from data import Batch
    from device import Device
    from engine import StepResult
    from groups import Mark
    from schedule import Op


class NonFiniteError(RuntimeError):
    """The loss or a gradient became infinite or NaN, first of all on this rank."""


class NonFiniteElsewhereError(RuntimeError):
    """The same on another rank, which the message names: here it only arrived."""


NO_PARALLELISM = jobs.Parallel(
    tensor_parallel_size=1,
    pipeline_parallel_size=1,
    virtual_pipeline_size=1,
    sequence_parallel=False,
    shard_optimizer=False,
    overlap=True,
)


class NativeEngine:
    """Tensor, pipeline and data parallelism; the optimizer's state replicated or sharded over the data group.

    Float16 and bfloat16 have float32 master weights, gradients and optimizer state (mechanism `engine`).
    """

    def __init__(self, job: jobs.Job, device: Device) -> None:
        check(job)
        parallel = job.parallel or NO_PARALLELISM
        self._job, self._device, self._parallel = job, device, parallel
        self.grid = grid_of(job)
        dtype = DTYPES[job.precision.compute_dtype]
        self._groups = groups = Groups(self.grid, device, dtype)
        split = Split(job, groups)
        stages, virtual = parallel.pipeline_parallel_size, parallel.virtual_pipeline_size
        spans = layers_of_chunks(
            job.model.num_layers, stages * virtual, tuple(parallel.pipeline_layers or ())
        )
        self.model = nn.ModuleList(
            [Chunk(job, split, spans[v * stages + groups.pipeline_rank]) for v in range(virtual)]
        )
        chunks: List[Any] = list(self.model)
        self._flat = Flat(
            chunks,
            groups,
            device,
            dtype,
            shard=parallel.shard_optimizer,
            partial=parallel.sequence_parallel,
            overlap=parallel.overlap,
        )
        self._optimizer = flat_optimizer(job.optimizer, self._flat.master, device)
        batch = job.batch
        positions = batch.sequence_length // (self.grid.tensor if parallel.sequence_parallel else 1)
        self._pipeline = Pipeline(
            chunks,
            groups,
            micros=batch.gradient_accumulation_steps,
            shape=(batch.micro_batch_size, positions, job.model.hidden_size),
            dtype=dtype,
            device=device.device,
            overlap=parallel.overlap,
        )
        self._scaler = None
        if dtype is torch.float16:
            self._scaler = LossScaler(device.device, window=job.precision.loss_scale_window)
        self._facts: Dict[str, Any] = {}
        self._counts = self._count()
        self._said: Any = None

    def found(self) -> Dict[str, Any]:
        """What runs, for the `ready` record; the whole model is counted over all ranks."""
        whole, embedding = self._counts
        groups, model = self._groups, self._job.model
        counted = whole - (0 if model.tie_embeddings else embedding)
        length = self._job.batch.sequence_length
        return {
            "zero_stage": 0,
            "compute_dtype": dtype_name(next(self.model.parameters()).dtype, tf32=self._device.tf32),
            "micro_batch_size": self._pipeline.shape[0],
            "gradient_accumulation_steps": len({op.micro for op in self._pipeline.order}),
            "loss_scaling": "dynamic" if self._scaler else "none",
            "fused_optimizer": bool(self._optimizer.defaults.get("fused")),
            **module_facts(self.model, self._device),
            "num_parameters": whole,
            "num_embedding_parameters": embedding,
            "num_local_parameters": self._flat.num_parameters,
            "recompute": recomputed(self.model),
            "flops_per_token": 6 * counted + 12 * model.num_layers * model.hidden_size * length,
            "tensor_parallel_size": self.grid.tensor,
            "pipeline_parallel_size": self.grid.pipeline,
            "tensor_rank": groups.tensor_rank,
            "pipeline_rank": groups.pipeline_rank,
            "data_rank": groups.data_rank,
            "virtual_pipeline_size": len(self.model),
            "sequence_parallel": all(chunk.split.sequence_parallel for chunk in self.model),
            "num_optimizer_parameters": self._flat.master.numel(),
        }

    def step(self, batches: Iterable[Batch]) -> StepResult:
        groups, accumulation = self._groups, self._job.batch.gradient_accumulation_steps
        groups.trace.clear()
        groups.wait_s = 0.0
        self._flat.begin()
        scale = self._scaler.scale if self._scaler else 1.0
        # The sum over the data group becomes the mean over it.
        total = self._pipeline.run(
            iter(batches),
            scale=scale / (accumulation * self.grid.data),
            before_backward=self._before_backward,
        )
        self._flat.finish()
        norm, loss = self._agree(total, accumulation)
        self._update(norm, scale)
        return loss, norm / scale

    def _before_backward(self, op: Op) -> None:
        if op.micro == self._job.batch.gradient_accumulation_steps - 1:
            self._flat.last_backward(op.chunk)

    def _agree(self, total: Optional[torch.Tensor], accumulation: int) -> Any:
        """(norm of all gradients, mean loss of this data rank), the same on all ranks that it is of."""
        said = self._flat.gradients.new_zeros(1 + self.grid.data)
        said[0] = self._flat.norm_squared()
        if total is not None and self._groups.tensor_rank == 0:
            said[1 + self._groups.data_rank] = total / accumulation
            self._groups.trace.note(OUT, "loss", total)
        self._said = self._groups.whole_world(said)
        return said[0].sqrt(), said[1 + self._groups.data_rank]

    def _update(self, norm: torch.Tensor, scale: float) -> None:
        clipping, master = self._job.optimizer.gradient_clipping, self._flat.master
        factor = torch.full_like(norm, 1.0 / scale)
        if clipping > 0:
            factor *= (clipping / (norm / scale + 1e-6)).clamp(max=1.0)
        finite = True
        if self._scaler is not None:
            finite = bool(torch.isfinite(norm))
            self._facts = {"loss_scale": scale, "updated": finite}
            self._scaler.adjust(finite)
        if finite:
            if clipping > 0 or self._scaler is not None:
                master.grad.mul_(factor)
            self._optimizer.step()
            self._flat.publish()

    def set_learning_rate(self, rate: float) -> None:
        set_rate(self._optimizer.param_groups, rate)

    def step_facts(self) -> Dict[str, Any]:
        """More about the last step, to be asked outside of its timed region. `comm_wait_s` is how long the
        host stood still for other ranks, null where a device does that without it. Raises NonFiniteError or
        NonFiniteElsewhereError after a step that no loss scale explains.
        """
        if self._scaler is None and not bool(torch.isfinite(self._said).all()):
            self._blame()
        return {"comm_wait_s": self._groups.wait_s if self._device.is_host else None, **self._facts}

    def _blame(self) -> None:
        """All ranks come here together and learn who had the first number that is not finite."""
        grid, rank = self.grid, self._groups.rank
        mark = self._groups.trace.first_bad()
        flags = torch.zeros(grid.world_size, dtype=torch.int64, device=self._device.device)
        flags[rank] = mark is not None and mark.way == OUT
        guilty = self._groups.whole_world(flags).nonzero().flatten().tolist()
        if mark is not None and rank in guilty:
            raise NonFiniteError("{}: {}".format(grid.words(rank), said_of(mark)))
        if guilty:
            # Whoever fails first has all others stopped: those that have something to say go first. This one
            # goes when they are gone, or is stopped meanwhile.
            with contextlib.suppress(RuntimeError):
                dist.barrier()
            raise NonFiniteElsewhereError(
                "what is not finite came from {}".format(", ".join(map(grid.words, guilty)))
            )
        raise NonFiniteError(
            "{}: each rank's own numbers were finite, their sum is not".format(grid.words(rank))
        )

    def _count(self) -> List[int]:
        """[parameters of the whole model, those of the input embedding]: every one counted once."""
        groups, flat = self._groups, self._flat
        own = flat.num_parameters if groups.tensor_rank == 0 else flat.num_split
        embedding = sum(
            c.model.embed_tokens.weight.numel() for c in self.model if hasattr(c.model, "embed_tokens")
        )
        counts = torch.tensor([own, embedding], dtype=torch.int64, device=self._device.device)
        if groups.data_rank != 0:
            counts.zero_()
        return [int(one) for one in groups.whole_world(counts)]

    def inference(self) -> Any:
        """What the model's forward is called within when nothing is trained."""
        return contextlib.nullcontext()


#: What a mark's `what` stands for, on its way out of a rank.
WORDS = {
    "forward": "activations that it gave its tensor group",
    "backward": "gradients of activations that it gave its tensor group",
    "loss": "numbers of the loss",
    "gradient": "gradients of its weights",
    "pipeline": "numbers that it sent along its pipeline",
}


def said_of(mark: Mark) -> str:
    return "{} are not finite, while all that had come to it was".format(WORDS[mark.what])


def check(job: jobs.Job) -> None:
    """Raises EngineError for what the engine cannot do; job.json was read without a problem."""
    problems = []
    if job.precision.mechanism == "autocast":
        problems.append("precision is the engine's, mechanism autocast is for ddp")
    if job.model.vision is not None:
        problems.append("it trains llama, not llava")
    if job.initial is not None:
        problems.append("it begins with random weights, not with `initial`")
    if job.model.tie_embeddings and job.parallel and job.parallel.pipeline_parallel_size > 1:
        problems.append("tied embeddings cannot be on the first and on the last stage of a pipeline at once")
    if problems:
        raise EngineError("native: " + "; ".join(problems))


def recomputed(chunks: Iterable[Any]) -> str:
    """What the layers that stand compute again in backward."""
    found = {
        "full" if chunk.recompute == "full" else "selective" if layer.self_attn.selective else "none"
        for chunk in chunks
        for layer in chunk.model.layers.values()
    }
    return "+".join(sorted(found))


def flat_optimizer(optimizer: jobs.Optimizer, master: nn.Parameter, device: Device) -> torch.optim.Optimizer:
    settings: Dict[str, Any] = {"fused": True} if fused_works(device) else {}
    return torch.optim.AdamW(
        [master],
        lr=optimizer.learning_rate,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        **settings,
    )
