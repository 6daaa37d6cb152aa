"""The peer of parallel.py: the same job by torch's own parallelize_module, pipelining and fully_shard.

argv: job.json, folder. It imports once and forks its ranks, as our launcher does, so that what is compared is
what the ranks do. Rank 0 leaves peer.json: the end of every step on the monotonic clock, losses, norms.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "cases" / "trainer"))

import job as jobs
import torch
import torch._dynamo
import torch.distributed as dist
import torch.nn.functional as functional
from data import make_feed
from llama import Llama, rope_angles, rotate
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    loss_parallel,
    parallelize_module,
)

PLAN = {
    "self_attn.q_proj": ColwiseParallel(),
    "self_attn.k_proj": ColwiseParallel(),
    "self_attn.v_proj": ColwiseParallel(),
    "self_attn.o_proj": RowwiseParallel(),
    "mlp.gate_proj": ColwiseParallel(),
    "mlp.up_proj": ColwiseParallel(),
    "mlp.down_proj": RowwiseParallel(),
}


class Norm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.size = c.hidden_size // c.num_heads
        d, k = c.hidden_size, self.size * c.num_kv_heads
        self.q_proj, self.k_proj = nn.Linear(d, d, bias=False), nn.Linear(d, k, bias=False)
        self.v_proj, self.o_proj = nn.Linear(d, k, bias=False), nn.Linear(d, d, bias=False)

    def forward(self, x, cos, sin):
        q, k, v = (
            p(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k, copies = rotate(q, cos, sin), rotate(k, cos, sin), q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(copies, dim=1), v.repeat_interleave(copies, dim=1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, f = c.hidden_size, c.ffn_hidden_size
        self.gate_proj, self.up_proj = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False)
        self.down_proj = nn.Linear(f, d, bias=False)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = Norm(c.hidden_size, c.norm_eps)
        self.post_attention_layernorm = Norm(c.hidden_size, c.norm_eps)
        self.self_attn, self.mlp = Attention(c), MLP(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Stage(nn.Module):
    """The layers of one pipeline stage, named as in the whole model."""

    def __init__(self, job, layers, *, first, last):
        super().__init__()
        c = job.model
        self.model = nn.Module()
        if first:
            self.model.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.model.layers = nn.ModuleDict({str(i): Layer(c) for i in layers})
        if last:
            self.model.norm = Norm(c.hidden_size, c.norm_eps)
            self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        self.first, self.last = first, last
        angles = rope_angles(job.batch.sequence_length, c.hidden_size // c.num_heads, c.rope_theta)
        self.cos, self.sin = angles.cos(), angles.sin()

    def forward(self, x):
        x = self.model.embed_tokens(x) if self.first else x
        for layer in self.model.layers.values():
            x = layer(x, self.cos, self.sin)
        return self.lm_head(self.model.norm(x)) if self.last else x


def main() -> None:
    path, folder = sys.argv[1:]
    job = jobs.load_job(path)
    pids = [fork(job, rank, folder) for rank in range(job.batch.world_size)]
    codes = [os.waitpid(pid, 0)[1] for pid in pids]
    sys.exit(any(codes))


def fork(job, rank: int, folder: str) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            train(job, rank, folder)
            code = 0
        except BaseException:  # noqa: BLE001  the child must not run on into the parent's code
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def train(job, rank: int, folder: str) -> None:
    store = dist.FileStore(folder + "/store", job.batch.world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=job.batch.world_size)
    p = job.parallel
    pp, dp, tp = p.pipeline_parallel_size, job.batch.data_parallel_size, p.tensor_parallel_size
    mesh = init_device_mesh("cpu", (pp, dp, tp), mesh_dim_names=("pp", "dp", "tp"))
    here = mesh["pp"].get_local_rank()
    each = job.model.num_layers // pp
    first, last = here == 0, here == pp - 1
    module = Stage(job, range(here * each, (here + 1) * each), first=first, last=last)
    whole = Llama(job.model, recompute=False, seed=job.seed).state_dict()
    module.load_state_dict({name: whole[name] for name in module.state_dict()})
    if first:
        parallelize_module(
            module.model, mesh["tp"], {"embed_tokens": RowwiseParallel(input_layouts=Replicate())}
        )
    if last:
        head = ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)
        parallelize_module(module, mesh["tp"], {"lm_head": head})
    for layer in module.model.layers.values():
        parallelize_module(layer, mesh["tp"], PLAN)
        fully_shard(layer, mesh=mesh["dp"])
    fully_shard(module, mesh=mesh["dp"])

    batch = job.batch
    micros = batch.gradient_accumulation_steps
    shape = (batch.micro_batch_size, batch.sequence_length)
    ids, hidden = torch.zeros(shape, dtype=torch.int64), torch.zeros(*shape, job.model.hidden_size)
    stage = PipelineStage(
        module,
        here,
        pp,
        torch.device("cpu"),
        input_args=(ids if first else hidden,),
        group=mesh["pp"].get_group(),
    )
    schedule = Schedule1F1B(
        stage,
        micros,
        loss_fn=lambda logits, labels: functional.cross_entropy(logits.flatten(0, 1), labels.flatten()),
    )
    o = job.optimizer
    optimizer = torch.optim.AdamW(
        module.parameters(),
        lr=o.learning_rate,
        betas=(o.beta1, o.beta2),
        eps=o.eps,
        weight_decay=o.weight_decay,
    )
    told: dict[str, list[float]] = {"ends_s": [], "losses": [], "norms": []}
    with make_feed(job, rank=mesh["dp"].get_local_rank()) as feed, loss_parallel():
        for step in range(job.steps.planned):
            pieces = [one.tensors for one in feed.micro_batches(step, torch.device("cpu"))]
            ids, labels = (torch.cat([one[n] for one in pieces]) for n in (0, 1))
            losses: list[torch.Tensor] = []
            given = {"target": labels, "losses": losses} if last else {}
            schedule.step(*([ids] if first else []), **given)
            norm = clip(module, mesh, o.gradient_clipping)
            optimizer.step()
            optimizer.zero_grad()
            loss = (
                torch.stack(
                    [one.full_tensor() if hasattr(one, "full_tensor") else one for one in losses]
                ).mean()
                if last
                else torch.zeros(())
            )
            dist.all_reduce(loss, group=mesh["pp"].get_group())
            told["losses"].append(float(loss))
            told["norms"].append(float(norm))
            told["ends_s"].append(time.monotonic())
    if rank == 0:
        Path(folder, "peer.json").write_text(json.dumps(told))
    dist.barrier()


def clip(module, mesh, most: float) -> torch.Tensor:
    """torch's own clip_grad_norm_ mixes meshes and fails: a norm for each mesh, then one over the stages."""
    kinds: dict[int, list] = {}
    for parameter in module.parameters():
        kinds.setdefault(parameter.device_mesh.ndim, []).append(parameter)
    norms = [nn.utils.get_total_norm([p.grad for p in some]).full_tensor() for some in kinds.values()]
    squared = torch.stack(norms).square().sum()
    dist.all_reduce(squared, group=mesh["pp"].get_group())
    for some in kinds.values():
        nn.utils.clip_grads_with_norm_(some, most, squared.sqrt())
    return squared.sqrt()


if __name__ == "__main__":
    main()
