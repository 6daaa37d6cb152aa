"""What keeps a case from running on what was chosen, said before anything starts: stack, data, questions.
Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.data import Manifest
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from orchestrator.cases import Program, Work
    from orchestrator.multimodal.lists import Samples
    from orchestrator.plan import BatchPlan, PrecisionPlan
    from orchestrator.vendors import Vendor


def refused(
    name: str, case: Work, vendor: Vendor, precision: PrecisionPlan, *, on_cpu: bool, has_image: bool
) -> list[Problem]:
    """What the vendor's torch and image, or a CPU that computes in its place, cannot do."""
    problems = []
    refusal = vendor.refusal(engine=case.engine, compute_dtype=precision.compute_dtype)
    if refusal is not None:
        problems.append(
            Problem(
                code="E120",
                message=f"{name}: {vendor.display_name} cannot run {case.engine} in "
                f"{precision.compute_dtype}: {refusal.reason}",
                help="choose another precision: --set precision=…   (or in the device's config)",
            )
        )
    if case.attention != "sdpa" and not on_cpu and not _has_flash_attention(case, vendor):
        problems.append(
            Problem(
                code="E128",
                message=f"{name}: attention {case.attention} needs the module flash_attn, which no image of "
                f"{vendor.display_name} is known to have",
                help="take torch's own: --set attention=sdpa   (or list the module under packages in its "
                "vendor.yaml)",
            )
        )
    if case.attention != "sdpa" and on_cpu:
        problems.append(
            Problem(
                code="E124",
                message=f"{name}: attention {case.attention} has no kernel for a CPU, which computes here",
                help="leave it away; the proxy takes torch's own (sdpa)",
            )
        )
    if has_image and case.engine == "megatron" and case.program is not None:
        problems += _program_problems(name, case.program, vendor)
    return problems


def _program_problems(name: str, program: Program, vendor: Vendor) -> list[Problem]:
    """Whether an image of the vendor has the external program where the case starts it."""
    source = vendor.programs.get("megatron")
    if source is None:
        return [
            Problem(
                code="E350",
                message=f"{name}: no image of {vendor.display_name} has {program.script}: its vendor.yaml "
                "names no source of engine megatron",
                help="add it under programs (docs/external.md), or --set engine=native",
            )
        ]
    if source.directory != program.directory:
        return [
            Problem(
                code="E350",
                message=f"{name}: {program.script} is started in {program.directory}, the image of "
                f"{vendor.display_name} has its program in {source.directory}",
                help="give program.directory of the case and programs.megatron.directory of the vendor.yaml "
                "one value",
            )
        ]
    return []


def _has_flash_attention(case: Work, vendor: Vendor) -> bool:
    listed = vendor.packages_of(case.engine, ("flash_attn_2",))
    # An external program brings its own kernels.
    return case.engine in vendor.programs or any(package.module == "flash_attn" for package in listed)


def data_problems(name: str, case: Work, source: Manifest | Samples) -> list[Problem]:
    problems = []
    manifest = source if isinstance(source, Manifest) else source.manifest
    if manifest.vocab_size > case.model.vocab_size:
        problems.append(
            Problem(
                code="E121",
                message=f"{name}: its data {manifest.name} has tokens up to {manifest.vocab_size}, "
                f"the model knows {case.model.vocab_size}",
                help="prepare the data with the tokenizer that the case names",
            )
        )
    if isinstance(source, Manifest) and source.index is None and case.engine == "megatron":
        problems.append(
            Problem(
                code="E352",
                message=f"{name}: engine megatron reads .bin and .idx, but {source.name} has no index",
                help=f"prepare it again: nx8 data prepare TEXT --format megatron --name {source.name}",
            )
        )
    if not isinstance(source, Manifest):
        problems += _set_problems(name, case, source)
        if source.manifest.model_max_length != case.batch.sequence_length:
            problems.append(
                Problem(
                    code="E125",
                    message=f"{name}: {manifest.name} was cut at {source.manifest.model_max_length} "
                    f"positions, the case trains with {case.batch.sequence_length}",
                    help="a prepared set is made for one length: prepare it anew, or leave sequence_length",
                )
            )
    return problems


def _set_problems(name: str, case: Work, source: Samples) -> list[Problem]:
    """Whether images of the set and of the model are of one form."""
    vision, made = case.model.vision, source.manifest
    wanted = (vision.image_size, (vision.image_size // vision.patch_size) ** 2) if vision else None
    if wanted == (made.image.side, made.image_positions):
        return []
    has = f"images of {made.image.side} × {made.image.side}, {made.image_positions} positions each"
    return [
        Problem(
            code="E126",
            message=f"{name}: {made.name} has {has}; the model's tower takes {wanted or 'none'}",
            help="prepare the set that the case names",
        )
    ]


def question_problems(name: str, case: Work, source: Manifest | Samples) -> list[Problem]:
    assert not isinstance(source, Manifest), "an evaluation is a prepared set"
    if source.manifest.kind != "questions":
        message = f"{name}: {source.manifest.name} holds {source.manifest.kind}, not questions"
        return [Problem(code="E126", message=message, help="nx8 data prepare mmmu makes questions")]
    return _set_problems(name, case, source)


def too_few_tokens(
    name: str, batch: BatchPlan, manifest: Manifest, *, wanted: int, available: int
) -> Problem:
    tokens_per_step = batch.global_batch_size * batch.sequence_length
    return Problem(
        code="E122",
        message=(
            f"{name}: {wanted} steps × GBS {batch.global_batch_size} × {batch.sequence_length} tokens = "
            f"{wanted * tokens_per_step:,} tokens, but {manifest.name} has {manifest.num_tokens:,}"
        ),
        help=f"{available} steps fit: lower the steps or the batch, or prepare more text",
    )
