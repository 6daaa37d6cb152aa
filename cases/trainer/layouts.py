"""How the published checkpoints name what our models have, and what their config.json must agree with."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Pattern, Tuple

from tensorfile import WeightsError, read_json

if TYPE_CHECKING:
    import job as jobs
    from llava import LlavaConfig


@dataclass(frozen=True)
class Layout:
    """How checkpoints of a kind of model name its tensors, and what their config.json must say.

    The first prefix that a stored name begins with is replaced; names that `ignored` then matches as a whole
    are left unread. `stated` maps a kind of config to keys and values; keys that a config leaves out are not
    compared.
    """

    prefixes: Tuple[Tuple[str, str], ...]
    ignored: Pattern[str]
    stated: Dict[str, Dict[str, Any]]

    def rename(self, name: str) -> str:
        for prefix, ours in self.prefixes:
            if name.startswith(prefix):
                return ours + name[len(prefix) :]
        return name


def llama_layout(config: jobs.Model) -> Layout:
    """Llama and Vicuna."""
    return Layout((), re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"), llama_says(config))


def clip_layout(config: jobs.Vision) -> Layout:
    """CLIP with or without its text half."""
    ignored = "{}|{}".format(unused_of_tower(config), CLIP_TEXT)
    return Layout((("vision_model.", ""),), re.compile(ignored), clip_says(config))


def llava_layout(config: LlavaConfig) -> Layout:
    """LLaVA 1.5 as Hugging Face has it, whole; or as first published, where the tower is CLIP's own folder;
    or Vicuna and CLIP, before there is a projector.
    """
    prefixes = (
        ("language_model.", "language_model."),
        ("multi_modal_projector.", "multi_modal_projector."),
        ("vision_tower.vision_model.", "vision_tower."),
        ("vision_tower.", "vision_tower."),
        ("model.language_model.", "language_model.model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
        ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
        ("model.vision_tower.vision_tower.vision_model.", "vision_tower."),
        ("model.vision_tower.vision_model.", "vision_tower."),
        ("model.vision_tower.", "vision_tower."),
        ("model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("vision_model.", "vision_tower."),
        *((part, "vision_tower." + part) for part in TOWER_PARTS),
    )
    ignored = r"language_model\.model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq|vision_tower\.(?:{})|{}"
    says = {**llama_says(config.language), **clip_says(config.vision)}
    says["llava"] = {
        "vision_feature_layer": config.vision.feature_layer,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "mm_vision_select_layer": config.vision.feature_layer,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": "mlp2x_gelu",
    }
    pattern = re.compile(ignored.format(unused_of_tower(config.vision), CLIP_TEXT))
    return Layout(prefixes, pattern, says)


TOWER_PARTS = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")
CLIP_TEXT = r"text_model\..+|text_projection\..+|visual_projection\..+|logit_scale"


def unused_of_tower(config: jobs.Vision) -> str:
    """What a whole tower stores and one that is read before its end does not build."""
    numbers = "|".join(str(i) for i in range(config.built_layers, config.num_layers))
    layers = r"|encoder\.layers\.(?:{})\..+".format(numbers) if numbers else ""
    return r"embeddings\.position_ids|post_layernorm\..+" + layers


def llama_says(config: jobs.Model) -> Dict[str, Dict[str, Any]]:
    said = {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.hidden_size // config.num_heads,
        "intermediate_size": config.ffn_hidden_size,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_type": "default",
        "rope_scaling": None,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    }
    return {"llama": said}


def clip_says(config: jobs.Vision) -> Dict[str, Dict[str, Any]]:
    said = {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_hidden_size,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": 3,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": "quick_gelu",
    }
    return {"clip": said}


def config_problems(folder: str, layout: Layout) -> List[str]:
    """What config.json says otherwise than the model: shapes do not show the rotation's base, for example.

    A folder without one is not compared.
    """
    path = os.path.join(folder, "config.json")
    if not os.path.exists(path):
        return []
    try:
        config = read_json(path)
    except (OSError, WeightsError) as error:
        return [str(error)]
    problems = []
    for where, kind, section in config_sections(config):
        for key, wanted in layout.stated.get(kind, {}).items():
            if key in section and section[key] != wanted:
                problems.append(
                    "{}: {}{} is {!r:.80}, the model has {!r}".format(path, where, key, section[key], wanted)
                )
    return problems


def config_sections(config: Dict[str, Any]) -> Iterator[Tuple[str, str, Dict[str, Any]]]:
    """(where, kind, keys and values) of every part of a config.json that says something about a model."""
    kind = str(config.get("model_type"))
    nested = isinstance(config.get("text_config"), dict)
    if kind == "llama" or (kind.startswith("llava") and not nested):
        yield "", "llama", config
    if kind.startswith("llava"):
        yield "", "llava", config
    if kind == "clip_vision_model":
        yield "", "clip", config
    if nested and kind.startswith("llava"):
        yield "text_config.", "llama", config["text_config"]
    if isinstance(config.get("vision_config"), dict):
        yield "vision_config.", "clip", config["vision_config"]
    for where, part in (("", config), ("text_config.", config.get("text_config"))):
        rope = part.get("rope_parameters") if isinstance(part, dict) else None
        if isinstance(rope, dict):
            yield where + "rope_parameters.", "llama", rope
