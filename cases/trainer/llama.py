"""Llama in plain torch (arXiv:2302.13971, arXiv:2307.09288), parameters named as in LlamaForCausalLM.

Parameters: with hidden size d, L layers, key/value width k = d × num_kv_heads / num_heads, ffn width f and
vocabulary V,
    N = V·d (embedding) + L·(2·d² + 2·d·k + 3·d·f + 2·d) + d + V·d (head; absent when the embeddings are
    tied).
Training FLOPs per token: 6·N' + 12·L·d·S, where N' leaves out the input embedding, which multiplies
nothing: PaLM, arXiv:2204.02311, appendix B. A multiply and an add are two FLOPs, backward costs twice the
forward, recomputation and the causal mask's half are not counted.

Shape suffixes: B sequences, S positions, T positions with those cached before them, D hidden size, H heads,
K key/value heads, E head size, F ffn size, V vocabulary.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, List, Optional, Tuple

import torch
import torch.nn.functional as F
from attention import attend
from torch import nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    import job as jobs


class Linear(nn.Module):
    """x @ weight.T without bias. Not nn.Linear: that one draws its own random weights first and throws them
    away.
    """

    def __init__(self, name: str, inputs: int, outputs: int, *, std: float, seed: int) -> None:
        super().__init__()
        self.weight = normal(name, (outputs, inputs), std=std, seed=seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight)


class Embedding(nn.Module):
    def __init__(self, name: str, config: jobs.Model, *, seed: int) -> None:
        super().__init__()
        self.weight = normal(name, (config.vocab_size, config.hidden_size), std=config.init_std, seed=seed)

    def forward(self, ids_BS: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids_BS, self.weight)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
        # In float32 whatever the compute dtype: a mean of squares overflows float16.
        wide_BSD = x_BSD.float()
        wide_BSD = wide_BSD * torch.rsqrt(wide_BSD.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide_BSD.to(x_BSD.dtype)


class Attention(nn.Module):
    def __init__(self, name: str, config: jobs.Model, *, attention: str, seed: int) -> None:
        super().__init__()
        self.kernel = attention
        self.heads, self.kv_heads = config.num_heads, config.num_kv_heads
        self.head_size = config.hidden_size // config.num_heads
        d, k = config.hidden_size, self.kv_heads * self.head_size
        self.q_proj = Linear(name + ".q_proj", d, d, std=config.init_std, seed=seed)
        self.k_proj = Linear(name + ".k_proj", d, k, std=config.init_std, seed=seed)
        self.v_proj = Linear(name + ".v_proj", d, k, std=config.init_std, seed=seed)
        self.o_proj = Linear(name + ".o_proj", d, d, std=config.init_std, seed=seed)

    def forward(
        self, x_BSD: torch.Tensor, cos_SE: torch.Tensor, sin_SE: torch.Tensor, cache: Optional[Any] = None
    ) -> torch.Tensor:
        B, S, D = x_BSD.shape
        q_BHSE = self.q_proj(x_BSD).view(B, S, self.heads, self.head_size).transpose(1, 2)
        k_BKSE = self.k_proj(x_BSD).view(B, S, self.kv_heads, self.head_size).transpose(1, 2)
        v_BKSE = self.v_proj(x_BSD).view(B, S, self.kv_heads, self.head_size).transpose(1, 2)
        q_BHSE, k_BKSE = rotate(q_BHSE, cos_SE, sin_SE), rotate(k_BKSE, cos_SE, sin_SE)
        if cache is not None:
            k_BKSE, v_BKSE = cache.extend(k_BKSE, v_BKSE)  # now (B, K, T, E)
        # A single query is the last position and sees all others.
        mixed_BHSE = attend(q_BHSE, k_BKSE, v_BKSE, self.kernel, causal=cache is None or S > 1)
        return self.o_proj(mixed_BHSE.transpose(1, 2).reshape(B, S, D))


class MLP(nn.Module):
    def __init__(self, name: str, config: jobs.Model, *, seed: int) -> None:
        super().__init__()
        d, f = config.hidden_size, config.ffn_hidden_size
        self.gate_proj = Linear(name + ".gate_proj", d, f, std=config.init_std, seed=seed)
        self.up_proj = Linear(name + ".up_proj", d, f, std=config.init_std, seed=seed)
        self.down_proj = Linear(name + ".down_proj", f, d, std=config.init_std, seed=seed)

    def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BSD)) * self.up_proj(x_BSD))


class Layer(nn.Module):
    def __init__(self, name: str, config: jobs.Model, *, attention: str, seed: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(name + ".self_attn", config, attention=attention, seed=seed)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(name + ".mlp", config, seed=seed)

    def forward(
        self, x_BSD: torch.Tensor, cos_SE: torch.Tensor, sin_SE: torch.Tensor, cache: Optional[Any] = None
    ) -> torch.Tensor:
        x_BSD = x_BSD + self.self_attn(self.input_layernorm(x_BSD), cos_SE, sin_SE, cache)
        return x_BSD + self.mlp(self.post_attention_layernorm(x_BSD))


class Decoder(nn.Module):
    """Everything below the head: "model." in the parameter names."""

    def __init__(self, config: jobs.Model, *, recompute: bool, attention: str, seed: int) -> None:
        super().__init__()
        self.recompute = recompute
        self.embed_tokens = Embedding("model.embed_tokens", config, seed=seed)
        self.layers = nn.ModuleList(
            [
                Layer("model.layers.{}".format(i), config, attention=attention, seed=seed)
                for i in range(config.num_layers)
            ]
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self._head_size, self._theta = config.hidden_size // config.num_heads, config.rope_theta
        self._rope: Tuple[torch.Tensor, ...] = ()

    def forward(self, x_BSD: torch.Tensor, caches: Optional[List[Any]] = None) -> torch.Tensor:
        """Last hidden states of embedded tokens; `caches`, one a layer, hold the positions before them."""
        S = x_BSD.shape[1]
        start, reach = (caches[0].length, caches[0].capacity) if caches else (0, S)
        cos_SE, sin_SE = (table[start : start + S] for table in self._rotation(reach, x_BSD))
        for i, layer in enumerate(self.layers):
            if caches:
                x_BSD = layer(x_BSD, cos_SE, sin_SE, caches[i])
            elif self.recompute:
                x_BSD = checkpoint(
                    layer, x_BSD, cos_SE, sin_SE, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x_BSD = layer(x_BSD, cos_SE, sin_SE)
        return self.norm(x_BSD)

    def _rotation(self, length: int, like: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """cos and sin of `length` positions or more, in the dtype and on the device of the activations.

        Made at the first forward and kept, but not as buffers: while DeepSpeed's zero.Init is at work every
        new tensor is in the compute dtype, and it casts buffers as well. Angles in bfloat16 are wrong by
        whole turns.
        """
        made = self._rope[0] if self._rope else None
        fits = made is not None and made.dtype == like.dtype and made.device == like.device
        if made is None or not fits or made.shape[0] < length:
            angles_SE = rope_angles(length, self._head_size, self._theta)
            self._rope = tuple(
                t.to(device=like.device, dtype=like.dtype) for t in (angles_SE.cos(), angles_SE.sin())
            )
        return self._rope


class Llama(nn.Module):
    """Weights depend on the seed and the parameter's name alone: the same for every engine, world size and
    way of sharding.
    """

    def __init__(self, config: jobs.Model, *, recompute: bool, seed: int, attention: str = "sdpa") -> None:
        super().__init__()
        self.model = Decoder(config, recompute=recompute, attention=attention, seed=seed)
        self.tied = config.tie_embeddings
        if not self.tied:
            self.lm_head = Linear(
                "lm_head", config.hidden_size, config.vocab_size, std=config.init_std, seed=seed
            )

    def flops_per_token(self, sequence_length: int) -> int:
        """Training FLOPs per token, as the docstring of this file derives them."""
        embedding = 0 if self.tied else num_parameters(self.model.embed_tokens)
        width, layers = self.model.norm.weight, len(self.model.layers)
        attention = 12 * layers * getattr(width, "ds_numel", width.numel()) * sequence_length
        return 6 * (num_parameters(self) - embedding) + attention

    def embed(self, ids_BS: torch.Tensor) -> torch.Tensor:
        return self.model.embed_tokens(ids_BS)

    def logits(self, ids_BS: torch.Tensor) -> torch.Tensor:
        return self.head(self.model(self.embed(ids_BS)))

    def head(self, x_BSD: torch.Tensor) -> torch.Tensor:
        return F.linear(x_BSD, self.model.embed_tokens.weight) if self.tied else self.lm_head(x_BSD)

    def forward(self, ids_BS: torch.Tensor, labels_BS: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over all positions, natural logarithm, in float32."""
        return self.loss(self.model(self.embed(ids_BS)), labels_BS)

    def loss(self, x_BSD: torch.Tensor, labels_BS: torch.Tensor) -> torch.Tensor:
        logits_BSV = self.head(x_BSD)
        return F.cross_entropy(logits_BSV.float().flatten(0, 1), labels_BS.flatten())


def normal(name: str, shape: Tuple[int, ...], *, std: float, seed: int) -> nn.Parameter:
    # One generator a parameter, on the CPU and in float32: no draw depends on what was built before, where,
    # or in which dtype. It takes the low 32 bits of what it is given and drops the rest.
    generator = torch.Generator("cpu").manual_seed(zlib.crc32("{} {}".format(seed, name).encode()))
    return nn.Parameter(torch.normal(0.0, std, shape, generator=generator, dtype=torch.float32, device="cpu"))


def rope_angles(length: int, head_size: int, theta: float) -> torch.Tensor:
    """Rotation angles (S, E) in float32, each frequency twice: the first half of a head is rotated against
    the second.
    """
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32, device="cpu") / head_size
    frequencies = 1.0 / (theta**exponents)
    positions = torch.arange(length, dtype=torch.float32, device="cpu")
    half_SE = torch.outer(positions, frequencies)
    return torch.cat((half_SE, half_SE), dim=-1)


def rotate(x_BHSE: torch.Tensor, cos_SE: torch.Tensor, sin_SE: torch.Tensor) -> torch.Tensor:
    first, second = x_BHSE.chunk(2, dim=-1)
    return x_BHSE * cos_SE + torch.cat((-second, first), dim=-1) * sin_SE


def num_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """Of the whole model, or of what learns in it; a parameter that ZeRO-3 has partitioned knows its full
    size as ds_numel.
    """
    chosen = (p for p in model.parameters() if p.requires_grad or not trainable)
    return sum(getattr(p, "ds_numel", p.numel()) for p in chosen)
