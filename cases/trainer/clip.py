"""CLIP's image tower in plain torch (arXiv:2103.00020), parameters named as in CLIPVisionModel.

LLaVA 1.5 reads ViT-L/14 at 336 × 336 pixels before its last layer (arXiv:2310.03744): the layers behind the
one that is read, and the norm after the last, feed nothing and are not built.

Parameters: with hidden size d, L layers that are built, ffn width f, patches of p × p pixels and P of them,
    N = d (class) + 3·d·p² (patches) + (P + 1)·d (positions) + 2·d + L·(4·d² + 2·d·f + 9·d + f).
ViT-L/14-336 has 24 layers; read at the last but one, 23 are built.

Shape suffixes: N images, C channels, H and W pixels, P patches (P + 1 with the class token), D hidden size,
K heads, E head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from attention import attend
from llama import normal
from torch import nn

if TYPE_CHECKING:
    import job as jobs


class Affine(nn.Module):
    """x @ weight.T + bias, the bias zero at first. Not nn.Linear: as in llama.py."""

    def __init__(self, name: str, inputs: int, outputs: int, *, std: float, seed: int) -> None:
        super().__init__()
        self.weight = normal(name, (outputs, inputs), std=std, seed=seed)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


class Patches(nn.Module):
    """A linear map of every p × p square of pixels, as a convolution."""

    def __init__(self, name: str, config: jobs.Vision, *, seed: int) -> None:
        super().__init__()
        p = config.patch_size
        self.weight = normal(name, (config.hidden_size, 3, p, p), std=config.init_std, seed=seed)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        images_NCHW = images_NCHW.to(self.weight.dtype)
        return F.conv2d(images_NCHW, self.weight, stride=self.weight.shape[-1]).flatten(2).transpose(1, 2)


class Positions(nn.Module):
    def __init__(self, name: str, config: jobs.Vision, *, seed: int) -> None:
        super().__init__()
        shape = (config.num_patches + 1, config.hidden_size)
        self.weight = normal(name, shape, std=config.init_std, seed=seed)

    def forward(self, x_NPD: torch.Tensor) -> torch.Tensor:
        return x_NPD + self.weight


class Embeddings(nn.Module):
    def __init__(self, name: str, config: jobs.Vision, *, seed: int) -> None:
        super().__init__()
        self.class_embedding = normal(
            name + ".class_embedding", (config.hidden_size,), std=config.init_std, seed=seed
        )
        self.patch_embedding = Patches(name + ".patch_embedding", config, seed=seed)
        self.position_embedding = Positions(name + ".position_embedding", config, seed=seed)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        x_NPD = self.patch_embedding(images_NCHW)
        class_N1D = self.class_embedding.expand(x_NPD.shape[0], 1, -1)
        return self.position_embedding(torch.cat((class_N1D, x_NPD), dim=1))


class Attention(nn.Module):
    """Every patch sees every patch."""

    def __init__(self, name: str, config: jobs.Vision, *, seed: int) -> None:
        super().__init__()
        self.heads, d, std = config.num_heads, config.hidden_size, config.init_std
        self.q_proj = Affine(name + ".q_proj", d, d, std=std, seed=seed)
        self.k_proj = Affine(name + ".k_proj", d, d, std=std, seed=seed)
        self.v_proj = Affine(name + ".v_proj", d, d, std=std, seed=seed)
        self.out_proj = Affine(name + ".out_proj", d, d, std=std, seed=seed)

    def forward(self, x_NPD: torch.Tensor) -> torch.Tensor:
        q_NKPE, k_NKPE, v_NKPE = (
            project(x_NPD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed_NKPE = attend(q_NKPE, k_NKPE, v_NKPE, "sdpa", causal=False)
        return self.out_proj(mixed_NKPE.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, name: str, config: jobs.Vision, *, seed: int) -> None:
        super().__init__()
        d, f, std = config.hidden_size, config.ffn_hidden_size, config.init_std
        self.fc1 = Affine(name + ".fc1", d, f, std=std, seed=seed)
        self.fc2 = Affine(name + ".fc2", f, d, std=std, seed=seed)

    def forward(self, x_NPD: torch.Tensor) -> torch.Tensor:
        return self.fc2(quick_gelu(self.fc1(x_NPD)))


class TowerLayer(nn.Module):
    def __init__(self, name: str, config: jobs.Vision, *, seed: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.self_attn = Attention(name + ".self_attn", config, seed=seed)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = MLP(name + ".mlp", config, seed=seed)

    def forward(self, x_NPD: torch.Tensor) -> torch.Tensor:
        x_NPD = x_NPD + self.self_attn(self.layer_norm1(x_NPD))
        return x_NPD + self.mlp(self.layer_norm2(x_NPD))


class Encoder(nn.Module):
    def __init__(self, name: str, config: jobs.Vision, *, seed: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [TowerLayer(name + ".layers.{}".format(i), config, seed=seed) for i in range(config.built_layers)]
        )

    def forward(self, x_NPD: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x_NPD = layer(x_NPD)
        return x_NPD


class Tower(nn.Module):
    """Features (N, P, D) of images: the layer that is read, the class token dropped.

    The images are image_size × image_size and normalised by CLIP's mean and deviation. Whoever uses the tower
    freezes it. Weights depend on the seed and the parameter's name alone.
    """

    def __init__(self, config: jobs.Vision, *, seed: int) -> None:
        super().__init__()
        check_config(config)
        self.config = config
        self.embeddings = Embeddings("vision_tower.embeddings", config, seed=seed)
        # The published name, with its slip: checkpoints have it.
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.encoder = Encoder("vision_tower.encoder", config, seed=seed)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        expected = (3, self.config.image_size, self.config.image_size)
        if tuple(images_NCHW.shape[1:]) != expected:
            raise ValueError("images are {}, not (N, {}, {}, {})".format(tuple(images_NCHW.shape), *expected))
        return self.encoder(self.pre_layrnorm(self.embeddings(images_NCHW)))[:, 1:]


def check_config(config: jobs.Vision) -> None:
    """Raises ValueError for sizes that make no tower."""
    problems = []
    if config.image_size % config.patch_size:
        problems.append("image_size {} is no multiple of patch_size".format(config.image_size))
    if config.hidden_size % config.num_heads:
        problems.append("hidden_size {} is not divisible by num_heads".format(config.hidden_size))
    if not 1 <= config.built_layers <= config.num_layers:
        problems.append("feature_layer {} of {} layers".format(config.feature_layer, config.num_layers))
    if problems:
        raise ValueError("vision: " + "; ".join(problems))


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """CLIP's approximation of GELU: it was trained with this one."""
    return x * torch.sigmoid(1.702 * x)
