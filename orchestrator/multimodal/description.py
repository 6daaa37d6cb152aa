"""What the published LLaVA 1.5 case is trained and judged on, as data.

Layout, templates and sizes: LLaVA 1.5's own pretrain.sh and finetune.sh, and the data section of the
published case's page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Stands for one image in a token file, as in LLaVA; no tokenizer has a negative id.
IMAGE_TOKEN = -200
#: Per channel, of values from 0 to 1: CLIP's preprocessor_config.json.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Template = Literal["plain", "v1", "v1-prompt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageForm:
    """How a stored image becomes 3 × side × side numbers.

    `encoding` "file": whatever Pillow opens, resized so that its shorter side is `side` and cut to the middle
    ("crop"), or made square with the mean colour first ("pad"). "rgb": side × side × 3 bytes, taken as they
    are.
    """

    encoding: Literal["file", "rgb"]
    fit: Literal["crop", "pad"]
    side: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """One stage's data.

    `source` and `images`, the folder that image names start in, are below the folder a person names, and so
    are `folders`, which must be there too. One image takes `image_positions` positions of a sequence;
    sequences are cut at `model_max_length` positions.
    """

    dataset: str
    template: Template
    source: str
    images: str
    folders: tuple[str, ...]
    published_samples: int
    image: ImageForm
    image_positions: int = 576  # (336 / 14)², one a patch
    model_max_length: int = 2048


#: By the name of the stage.
DESCRIPTIONS = {
    "pretrain": Description(
        dataset="LLaVA-Pretrain blip_laion_cc_sbu_558k",
        template="plain",
        source="LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
        images="LLaVA-Pretrain/images",
        folders=("LLaVA-Pretrain/images",),
        published_samples=558_128,
        image=ImageForm(encoding="file", fit="crop", side=336),
    ),
    "finetune": Description(
        dataset="LLaVA-Finetune llava_v1_5_mix665k",
        template="v1",
        source="LLaVA-Finetune/llava_v1_5_mix665k.json",
        images="LLaVA-Finetune/data",
        folders=tuple(
            f"LLaVA-Finetune/data/{folder}"
            for folder in (
                "coco/train2017",
                "gqa/images",
                "ocr_vqa/images",
                "textvqa/train_images",
                "vg/VG_100K",
                "vg/VG_100K_2",
            )
        ),
        published_samples=665_298,
        image=ImageForm(encoding="file", fit="pad", side=336),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """A multiple-choice and short-answer test with images; one folder a subject below `root`."""

    dataset: str
    root: str
    subjects: tuple[str, ...]
    published_questions: int
    image: ImageForm
    image_positions: int = 576


MMMU = Questions(
    dataset="MMMU validation",
    root="MMMU/MMMU",
    subjects=(
        "Accounting",
        "Agriculture",
        "Architecture_and_Engineering",
        "Art",
        "Art_Theory",
        "Basic_Medical_Science",
        "Biology",
        "Chemistry",
        "Clinical_Medicine",
        "Computer_Science",
        "Design",
        "Diagnostics_and_Laboratory_Medicine",
        "Economics",
        "Electronics",
        "Energy_and_Power",
        "Finance",
        "Geography",
        "History",
        "Literature",
        "Manage",
        "Marketing",
        "Materials",
        "Math",
        "Mechanical_Engineering",
        "Music",
        "Pharmacy",
        "Physics",
        "Psychology",
        "Public_Health",
        "Sociology",
    ),
    published_questions=900,
    # The published evaluation hands the images to CLIP's own preprocessor, not padded as finetune has them.
    image=ImageForm(encoding="file", fit="crop", side=336),
)
