"""One chunk of a Llama on a pipeline rank, its matrices split over the tensor group.

Attention is split by heads, the MLP by its width, embedding and head by words: after arXiv:1909.08053, two
sums forward and two backward a layer. With sequence parallelism (arXiv:2205.05198) the parts between them
hold a share of the positions each. Parameters are named as in llama.py, and every one is the slice of what
that file draws for its name: weights do not depend on how they are split.

Shape suffixes as in llama.py, R the rows that a rank has; H, K, F and V are this rank's shares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from attention import attend
from groups import Columns, CrossEntropy, Sum, SumScatter
from llama import RMSNorm, normal, rope_angles, rotate
from torch import nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    import job as jobs
    from groups import Groups


class Split:
    """How the matrices of a rank are cut and its partial results joined."""

    def __init__(self, job: jobs.Job, groups: Groups) -> None:
        self.groups, self.seed, self.std = groups, job.seed, job.model.init_std
        self.sequence_parallel = bool(job.parallel and job.parallel.sequence_parallel)
        self._way_out = SumScatter if self.sequence_parallel else Sum

    def share(self, size: int) -> slice:
        """This rank's part of `size` rows or columns."""
        rank, ranks = self.groups.tensor_rank, self.groups.grid.tensor
        return slice(size * rank // ranks, size * (rank + 1) // ranks)

    def matrix(self, name: str, shape: Tuple[int, int], *, dim: int) -> nn.Parameter:
        whole = normal(name, shape, std=self.std, seed=self.seed)
        mine = (self.share(shape[0]), slice(None)) if dim == 0 else (slice(None), self.share(shape[1]))
        parameter = nn.Parameter(whole.detach()[mine].clone())
        parameter.whole_shape, parameter.mine = shape, mine  # type: ignore[attr-defined]
        return parameter

    def columns(self, x: torch.Tensor, *weights: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        return Columns.apply(x, self.groups, self.sequence_parallel, *weights)

    def join(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.groups.tensor is None else self._way_out.apply(x, self.groups)


class Weight(nn.Module):
    """A matrix, named as that of a linear layer."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight


class SplitAttention(nn.Module):
    def __init__(
        self, name: str, config: jobs.Model, split: Split, *, attention: str, selective: bool
    ) -> None:
        super().__init__()
        self.kernel, self.split, self.selective = attention, split, selective
        self.head_size = config.hidden_size // config.num_heads
        d, k = config.hidden_size, config.num_kv_heads * self.head_size
        self.q_proj = Weight(split.matrix(name + ".q_proj", (d, d), dim=0))
        self.k_proj = Weight(split.matrix(name + ".k_proj", (k, d), dim=0))
        self.v_proj = Weight(split.matrix(name + ".v_proj", (k, d), dim=0))
        self.o_proj = Weight(split.matrix(name + ".o_proj", (d, d), dim=1))

    def forward(self, x_BRD: torch.Tensor, cos_SE: torch.Tensor, sin_SE: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            x.unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for x in self.split.columns(x_BRD, self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)
        )
        q_BHSE, k_BKSE = rotate(q, cos_SE, sin_SE), rotate(k, cos_SE, sin_SE)
        if self.selective:
            mixed_BHSE = again(self._attend, q_BHSE, k_BKSE, v)
        else:
            mixed_BHSE = self._attend(q_BHSE, k_BKSE, v)
        return self.split.join(F.linear(mixed_BHSE.transpose(1, 2).flatten(2), self.o_proj.weight))

    def _attend(self, q_BHSE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor) -> torch.Tensor:
        return attend(q_BHSE, k_BKSE, v_BKSE, self.kernel, causal=True)


class SplitMLP(nn.Module):
    def __init__(self, name: str, config: jobs.Model, split: Split) -> None:
        super().__init__()
        d, f = config.hidden_size, config.ffn_hidden_size
        self.split = split
        self.gate_proj = Weight(split.matrix(name + ".gate_proj", (f, d), dim=0))
        self.up_proj = Weight(split.matrix(name + ".up_proj", (f, d), dim=0))
        self.down_proj = Weight(split.matrix(name + ".down_proj", (d, f), dim=1))

    def forward(self, x_BRD: torch.Tensor) -> torch.Tensor:
        gate, up = self.split.columns(x_BRD, self.gate_proj.weight, self.up_proj.weight)
        return self.split.join(F.linear(F.silu(gate) * up, self.down_proj.weight))


class SplitLayer(nn.Module):
    def __init__(
        self, name: str, config: jobs.Model, split: Split, *, attention: str, selective: bool
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = SplitAttention(
            name + ".self_attn", config, split, attention=attention, selective=selective
        )
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = SplitMLP(name + ".mlp", config, split)

    def forward(self, x_BRD: torch.Tensor, cos_SE: torch.Tensor, sin_SE: torch.Tensor) -> torch.Tensor:
        x_BRD = x_BRD + self.self_attn(self.input_layernorm(x_BRD), cos_SE, sin_SE)
        return x_BRD + self.mlp(self.post_attention_layernorm(x_BRD))


class SplitEmbedding(nn.Module):
    def __init__(self, config: jobs.Model, split: Split) -> None:
        super().__init__()
        self.split, self.words = split, split.share(config.vocab_size)
        shape = (config.vocab_size, config.hidden_size)
        self.weight = split.matrix("model.embed_tokens", shape, dim=0)

    def forward(self, ids_BS: torch.Tensor) -> torch.Tensor:
        if self.split.groups.tensor is None:
            return F.embedding(ids_BS, self.weight)
        here_BS = (ids_BS >= self.words.start) & (ids_BS < self.words.stop)
        rows_BS = torch.where(here_BS, ids_BS - self.words.start, torch.zeros_like(ids_BS))
        found_BSD = F.embedding(rows_BS, self.weight) * here_BS[..., None].to(self.weight.dtype)
        return self.split.join(found_BSD)


class Body(nn.Module):
    """What is below the head: "model." in the parameter names. Layers keep the numbers of the whole model."""

    def __init__(self, job: jobs.Job, split: Split, layers: range, *, first: bool, last: bool) -> None:
        super().__init__()
        config = job.model
        if first:
            self.embed_tokens = SplitEmbedding(config, split)
        self.layers = nn.ModuleDict(
            {
                str(i): SplitLayer(
                    "model.layers.{}".format(i),
                    config,
                    split,
                    attention=job.attention,
                    selective=job.recompute == "selective",
                )
                for i in layers
            }
        )
        if last:
            self.norm = RMSNorm(config.hidden_size, config.norm_eps)


class Chunk(nn.Module):
    """A run of layers: with the embedding if they are the model's first, with head and loss if its last."""

    def __init__(self, job: jobs.Job, split: Split, layers: range) -> None:
        super().__init__()
        config = job.model
        self.first, self.last = layers.start == 0, layers.stop == config.num_layers
        self.split, self.tied, self.recompute = split, config.tie_embeddings, job.recompute
        self.model = Body(job, split, layers, first=self.first, last=self.last)
        self._vocabulary = split.share(config.vocab_size)
        if self.last and not self.tied:
            shape = (config.vocab_size, config.hidden_size)
            self.lm_head = Weight(split.matrix("lm_head", shape, dim=0))
        self._rope_of: Dict[str, Any] = {
            "length": job.batch.sequence_length,
            "head_size": config.hidden_size // config.num_heads,
            "theta": config.rope_theta,
        }
        self._rope: Tuple[torch.Tensor, ...] = ()

    def forward(self, x: torch.Tensor, labels_BS: Optional[torch.Tensor] = None) -> torch.Tensor:
        """The next chunk's input; the last one's mean cross-entropy. `x`: token ids for the first chunk, else
        what the chunk before has put out.
        """
        x_BRD = self.model.embed_tokens(x) if self.first else x
        cos_SE, sin_SE = self._rotation(x_BRD)
        for layer in self.model.layers.values():
            if self.recompute == "full":
                x_BRD = again(layer, x_BRD, cos_SE, sin_SE)
            else:
                x_BRD = layer(x_BRD, cos_SE, sin_SE)
        if not self.last:
            return x_BRD
        head = self.model.embed_tokens.weight if self.tied else self.lm_head.weight
        (logits_BSV,) = self.split.columns(self.model.norm(x_BRD), head)
        assert labels_BS is not None
        return CrossEntropy.apply(
            logits_BSV.float().flatten(0, 1),
            labels_BS.flatten(),
            self._vocabulary.start,
            self.split.groups,
        )

    def _rotation(self, like: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        if not self._rope:
            angles_SE = rope_angles(**self._rope_of)
            self._rope = tuple(
                t.to(device=like.device, dtype=like.dtype) for t in (angles_SE.cos(), angles_SE.sin())
            )
        return self._rope


def again(function: Any, *inputs: torch.Tensor) -> torch.Tensor:
    """What `function` gives, without keeping what backward needs: it is computed once more there."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
