"""LLaVA 1.5 in plain torch (arXiv:2310.03744): CLIP's tower, a projector of two layers, Llama.

Parameters are named as in the published LlavaForConditionalGeneration checkpoints: vision_tower,
multi_modal_projector, language_model.

Training FLOPs per token. With N' the language model without its input embedding, L its layers, d its width,
S the length; N_p the projector, N_v the tower; T image positions among the S:
    finetune  6·N' + 12·L·d·S + (T / S)·(6·N_p + 2·N_v)
    pretrain  4·N' + 12·L·d·S + (T / S)·(6·N_p + 2·N_v)
The tower is frozen and in front of everything that learns: forward only. In pretrain the language model has
no weight gradients (2·N' less), but the gradient still has to pass through it to reach the projector: forward
and the activations' half of backward. Attention has no weights, so its term is whole in both. The published
tables count 2·N in pretrain and 6·N in finetune, with N = 7e9 or 13e9, and neither tower nor attention: what
pretrain computes is about twice what they credit it with. As in llama.py a multiply and an add are two FLOPs,
and neither recomputation nor the causal mask's half is counted.

Shape suffixes: B sequences, S positions, D hidden size, V vocabulary, N images, C channels, H and W pixels,
P patches of an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, NamedTuple, Optional

import job as jobs
import torch
import torch.nn.functional as F
from clip import Affine, Tower
from llama import Llama
from torch import nn

STAGES = ("pretrain", "finetune")
IGNORED_LABEL = -100


@dataclass(frozen=True)
class LlavaConfig:
    """`image_token_id` marks the positions that an image fills; it need not be in the vocabulary (-200)."""

    language: jobs.Model
    vision: jobs.Vision
    image_token_id: int


class Loss(NamedTuple):
    """Sum of the cross-entropies (natural logarithm, float32) and the number of labelled tokens behind it."""

    total: torch.Tensor
    labelled: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """Zero, with zero gradients, where nothing is labelled."""
        return self.total / self.labelled.clamp(min=1)


class Projector(nn.Module):
    """mlp2x_gelu: image features (N, P, tower's width) → (N, P, D).

    Weights with the deviation that torch gives a linear layer, as where LLaVA trains it from scratch.
    """

    def __init__(self, inputs: int, outputs: int, *, seed: int) -> None:
        super().__init__()
        name = "multi_modal_projector.linear_{}"
        std_1, std_2 = 1 / math.sqrt(3 * inputs), 1 / math.sqrt(3 * outputs)
        self.linear_1 = Affine(name.format(1), inputs, outputs, std=std_1, seed=seed)
        self.linear_2 = Affine(name.format(2), outputs, outputs, std=std_2, seed=seed)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(F.gelu(self.linear_1(features)))


class Llava(nn.Module):
    """With a stage it is born ready to train: parameters that the stage leaves alone ask for no gradient.

    Weights depend on the seed and the parameter's name alone; the language model's are those of the same
    Llama.
    """

    def __init__(
        self,
        config: LlavaConfig,
        *,
        recompute: bool,
        seed: int,
        attention: str = "sdpa",
        stage: Optional[str] = None,
    ) -> None:
        super().__init__()
        self.config = config
        width = config.language.hidden_size
        self.vision_tower = Tower(config.vision, seed=seed)
        self.multi_modal_projector = Projector(config.vision.hidden_size, width, seed=seed)
        self.language_model = Llama(config.language, recompute=recompute, seed=seed, attention=attention)
        if stage is not None:
            self.requires_grad_(False)
            for parameter in self.trainable(stage):
                parameter.requires_grad_(True)

    def trainable(self, stage: str) -> List[nn.Parameter]:
        """What the stage trains: the projector, in finetune the language model as well, the tower never."""
        if stage not in STAGES:
            raise ValueError("stage: {!r} is none of {}".format(stage, ", ".join(STAGES)))
        parameters = list(self.multi_modal_projector.parameters())
        return parameters + (list(self.language_model.parameters()) if stage == "finetune" else [])

    def forward(
        self, inputs_BS: torch.Tensor, labels_BS: torch.Tensor, images_NCHW: torch.Tensor
    ) -> torch.Tensor:
        """Mean cross-entropy over the labelled tokens of this batch."""
        return self.loss(inputs_BS, labels_BS, images_NCHW).mean

    def loss(self, inputs_BS: torch.Tensor, labels_BS: torch.Tensor, images_NCHW: torch.Tensor) -> Loss:
        """`labels_BS` holds for every position the token that comes after it, -100 where no loss is taken.

        Padding is on the right and needs no attention mask: causality hides it from every real position, and
        what the padded positions themselves compute has no label. Mask tensors would also cost the fast
        kernels.
        """
        logits_BSV = self.logits(inputs_BS, images_NCHW)
        total = F.cross_entropy(
            logits_BSV.float().flatten(0, 1),
            labels_BS.flatten(),
            ignore_index=IGNORED_LABEL,
            reduction="sum",
        )
        return Loss(total, (labels_BS != IGNORED_LABEL).sum())

    def logits(self, inputs_BS: torch.Tensor, images_NCHW: torch.Tensor) -> torch.Tensor:
        x_BSD = self.embed(inputs_BS, images_NCHW)
        return self.language_model.head(self.language_model.model(x_BSD))

    def embed(self, inputs_BS: torch.Tensor, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Embedded tokens with the images' features in their places, in reading order.

        check_images() of the batch is for whoever makes it, on the host: counting here would wait for the
        device.
        """
        image_BS = inputs_BS == self.config.image_token_id
        x_BSD = self.language_model.embed(inputs_BS.masked_fill(image_BS, 0))
        features_NPD = self.multi_modal_projector(self._features(images_NCHW))
        image_BSD = image_BS.unsqueeze(-1).expand_as(x_BSD)
        return x_BSD.masked_scatter(image_BSD, features_NPD.to(x_BSD.dtype))

    def _features(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        # A batch of words alone still goes through tower and projector, with a black image that no position
        # takes: a rank that skipped them would leave the others waiting for its part.
        if images_NCHW.shape[0] == 0:
            images_NCHW = images_NCHW.new_zeros((1, *images_NCHW.shape[1:]))
        with torch.no_grad():
            return self.vision_tower(images_NCHW)


def check_images(inputs_BS: torch.Tensor, images_NCHW: torch.Tensor, *, config: LlavaConfig) -> None:
    """Raises ValueError unless the batch has exactly the placeholders that its images fill."""
    found = int((inputs_BS == config.image_token_id).sum())
    wanted = images_NCHW.shape[0] * config.vision.num_patches
    if found != wanted:
        raise ValueError(
            "{} image positions in the batch, {} images fill {}".format(found, images_NCHW.shape[0], wanted)
        )
