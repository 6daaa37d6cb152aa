"""Cluster × Vendor × Case → Plan: ranks, batch arithmetic, argv, environment and job.json, complete before
anything starts. Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestrator import megatron, parallelcheck, plancheck, sizes
from orchestrator.cases import Work
from orchestrator.data import Manifest
from orchestrator.document import Text
from orchestrator.errors import ConfigError, Problem
from orchestrator.multimodal.lists import AnswerKey, Samples
from orchestrator.options import Options, changed, changes, engine_of, is_proxy, shown, works_of
from orchestrator.placing import (
    REHEARSAL,
    REHEARSAL_OF_CASE,
    Place,
    data_plan,
    device_plan,
    image_plan,
    initial_plan,
    launches,
    questions_plan,
)
from orchestrator.plan import (
    CONTRACT,
    BatchPlan,
    Cell,
    DocumentPlan,
    HandedPlan,
    Identity,
    Job,
    KeyPlan,
    LimitsPlan,
    ListsPlan,
    ParallelPlan,
    Plan,
    PrecisionPlan,
    ProxyPlan,
    Steps,
    as_document,
)
from orchestrator.selection import Chosen, Selection

if TYPE_CHECKING:
    from orchestrator.render import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What was found on this machine of that which cells read, checked: token files and prepared sets by
    name, keys by the name of their questions, and the SHA-256 of the lists of weights.
    """

    data: Mapping[str, Manifest | Samples]
    keys: Mapping[str, AnswerKey] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)


def plan(
    selection: Selection,
    *,
    identity: Identity,
    place: Place,
    sources: Sources,
    options: Options,
    contexts: Mapping[str, Context] | None = None,
) -> Plan:
    """The complete plan. `contexts` has what the image of each engine is built from, where there are nodes to
    build it on.

    Raises ConfigError (E12x) with everything that does not divide, fit or is refused, of all cases at once.
    """
    cells: list[Cell] = []
    problems: list[Problem] = []
    for chosen in selection.cases:
        before: str | None = None
        bases = works_of(chosen.case, selection)
        for at, base in enumerate(bases):
            maker = _Maker(
                selection=selection,
                chosen=chosen,
                base=base,
                before=before,
                is_last=at == len(bases) - 1,
                identity=identity,
                place=place,
                sources=sources,
                options=options,
            )
            before = maker.cell_id
            engine = engine_of(chosen, selection, options)
            try:
                cells.append(maker.cell((contexts or {}).get(engine)))
            except ConfigError as error:
                problems += (problem for problem in error.problems if problem not in problems)
    if problems:
        raise ConfigError(problems)
    return Plan(
        schema=1,
        identity=identity,
        cluster=selection.cluster_name,
        vendor=selection.vendor_name,
        transport=selection.cluster.transport,
        cells=tuple(cells),
        time_limit_s=options.time_limit_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker:
    """Makes the cell of one case, or of one stage of it; `before` is the cell of the stage before."""

    selection: Selection
    chosen: Chosen
    base: Work
    before: str | None
    is_last: bool
    identity: Identity
    place: Place
    sources: Sources
    options: Options

    @property
    def cell_id(self) -> str:
        parts = (self.chosen.name, self.selection.cluster.scale, self.chosen.label, self.base.stage)
        return "-".join(part for part in parts if part)

    @property
    def named(self) -> str:
        """In messages."""
        beside = self.base.stage or self.chosen.label
        return f"{self.chosen.name} ({beside})" if beside else self.chosen.name

    def cell(self, context: Context | None) -> Cell:
        """Raises ConfigError."""
        selection, chosen, base = self.selection, self.chosen, self.base
        cluster, vendor = selection.cluster, selection.vendor
        device, proxy = vendor.devices[cluster.device], is_proxy(selection)
        work = changed(selection, base, chosen, self.options)
        source = self.sources.data[work.data.name]
        precision = sizes.precision(work, device)
        has_image = cluster.transport != "local"
        problems: list[Problem] = [
            *parallelcheck.uncuttable(self.named, work, cluster, has_image=has_image),
            *plancheck.refused(self.named, work, vendor, precision, on_cpu=proxy, has_image=has_image),
            *plancheck.data_problems(self.named, work, source),
        ]
        if work.evaluation is not None:
            questions = self.sources.data[work.evaluation.name]
            problems += plancheck.question_problems(self.named, work, questions)
        # A cut that does not divide has no data-parallel size, and nothing follows from it.
        cuttable = not any(problem.code in ("E340", "E342") for problem in problems)
        world_size = len(cluster.nodes) * cluster.devices_per_node
        batch = sizes.batch(work, world_size) if cuttable else None
        steps = sizes.steps(self.named, work, batch, source, problems) if batch else None
        memory = sizes.memory(work, batch, precision, device) if batch else None
        problems += parallelcheck.too_large(self.named, memory) if memory and not cluster.rehearsal else ()
        if problems or steps is None or batch is None:
            raise ConfigError(problems)
        job = self._job(work, batch, steps, precision)
        return Cell(
            cell_id=self.cell_id,
            case=chosen.name,
            vendor=selection.vendor_name,
            device=cluster.device,
            device_display=device.display_name,
            num_nodes=len(cluster.nodes),
            devices_per_node=cluster.devices_per_node,
            stage=base.stage,
            proxy=ProxyPlan(why=chosen.case.proxy.why, of=chosen.case.table.display_name) if proxy else None,
            fix_hp=sizes.fix_hp(base, work, data_parallel_size=batch.data_parallel_size),
            changed={
                key: shown(value) for key, value in changes(selection, base, chosen, self.options).items()
            },
            columns=chosen.case.table.columns,
            flops=sizes.flops(work, proxy=proxy),
            peak=sizes.peak(device, precision.compute_dtype, rehearsal=cluster.rehearsal),
            limits=LimitsPlan(
                startup_s=self.options.startup_limit_s or work.limits.startup_s,
                stall_s=self.options.stall_limit_s or work.limits.stall_s,
            ),
            config_hash=_config_hash(job),
            job=job,
            launches=launches(selection, self.place, job, context),
            image=image_plan(context, cluster.image),
            rehearsal=self._rehearsal(work),
            probe=vendor.probe if context else None,
            device_memory_bytes=round(device.memory_gib * 1024**3) if device.memory_gib else None,
            document=_document(selection, chosen, base, self.options, proxy=proxy),
            lists=_lists(source),
            key=_key(work, self.sources),
            handed=self._handed(),
            memory=memory,
            warnings=parallelcheck.warnings(work, None if cluster.rehearsal else memory) or None,
        )

    def _job(self, work: Work, batch: BatchPlan, steps: Steps, precision: PrecisionPlan) -> Job:
        selection, place, sources = self.selection, self.place, self.sources
        data = data_plan(selection, place, work.data, sources.data[work.data.name])
        job = Job(
            contract=CONTRACT,
            run_id=self.identity.run_id,
            cell_id=self.cell_id,
            nonce=self.identity.nonce,
            case=self.chosen.name,
            seed=work.seed,
            engine=work.engine,
            device=device_plan(selection),
            model=sizes.model_plan(work.model),
            data=data,
            batch=batch,
            steps=steps,
            optimizer=sizes.optimizer(work.optimizer, steps),
            precision=precision,
            recompute=work.recompute,
            attention=work.attention,
            zero=sizes.zero(work),
            stage=work.stage,
            trainable=tuple(TRAINED[part] for part in work.trainable) or None,
            initial=initial_plan(
                selection,
                place,
                weights={name: sources.weights[name] for name in work.weights},
                before=self.before,
                folder=self._projector,
            ),
            save=None if self.is_last else self._projector,
            questions=None
            if work.evaluation is None
            else questions_plan(
                selection, place, sources.data[work.evaluation.name], work.evaluation.max_new_tokens
            ),
            parallel=None if work.parallel is None else ParallelPlan(**asdict(work.parallel)),
        )
        if work.engine != "megatron" or work.program is None:
            return job
        source = sources.data[work.data.name]
        assert isinstance(source, Manifest), "an external program reads tokens"
        here = selection.cluster.transport == "local" and place.stand_in is not None
        return replace(
            job,
            program=megatron.program(
                work, job, tokenizer=source.tokenizer, stand_in=str(place.stand_in) if here else None
            ),
        )

    def _rehearsal(self, work: Work) -> str | None:
        if not self.selection.cluster.rehearsal:
            return None
        case = self.chosen.case
        asked: dict[str, Any] = {"precision": case.precision, "attention": case.attention}
        asked |= {key: value for key, value in self.chosen.config.changes(work.stage).items() if key in asked}
        same = all(getattr(work, key) == value for key, value in asked.items())
        return REHEARSAL if same else REHEARSAL_OF_CASE

    @property
    def _projector(self) -> str:
        """Of this run alone: a file that another run left there can never be taken for it."""
        return f"projector-{self.identity.nonce}"

    def _handed(self) -> HandedPlan | None:
        if self.before is None:
            return None
        file = f"{self._projector}/model.safetensors"
        return HandedPlan(cell_id=self.before, source=f"cells/{self.before}/node0/{file}", target=file)


#: What a stage may train, by the name that its parameters begin with.
TRAINED = {"projector": "multi_modal_projector", "language_model": "language_model"}


def _lists(source: Manifest | Samples) -> ListsPlan | None:
    if isinstance(source, Manifest):
        return None
    name = source.manifest.name
    return ListsPlan(
        lengths=f"samples/{name}.lengths.i32",
        lengths_sha256=source.lengths_sha256,
        words=f"samples/{name}.words.i32",
        words_sha256=source.words_sha256,
    )


def _key(work: Work, sources: Sources) -> KeyPlan | None:
    if work.evaluation is None:
        return None
    name, key = work.evaluation.name, sources.keys[work.evaluation.name]
    return KeyPlan(
        key=f"samples/{name}.key.json",
        key_sha256=key.key_sha256,
        tokenizer=None if key.tokenizer is None else f"samples/{name}.tokenizer{key.tokenizer_suffix}",
        tokenizer_sha256=key.tokenizer_sha256,
    )


def _document(
    selection: Selection, chosen: Chosen, base: Work, options: Options, *, proxy: bool
) -> DocumentPlan | None:
    """The words of the published document; a proxy's says which data it really read."""
    if chosen.case.document is None:
        return None
    words = chosen.case.document.changed(chosen.config.document)
    vendor, device = selection.vendor.display_name, selection.cluster.device
    name = vendor if device.lower() == vendor.lower() else f"{vendor} {device}"
    words = replace(
        words,
        title=words.title or Text(zh=name, en=name),
        model=words.model or chosen.case.table.display_name,
    )
    if proxy:
        read = Text(zh=base.data.dataset, en=base.data.dataset)
        remarks = dict(words.remarks)
        remarks.pop("dataset", None)
        words = replace(words, dataset=read, remarks=remarks)
    own = changes(selection, base, chosen, options)
    said = options.changes.changes()
    config = f"configs/{chosen.config_name or selection.cluster.scale}.yaml"
    batch = asdict(base.batch)
    return DocumentPlan(
        words=words,
        default_batch=batch,
        sources={key: "--set" if key in said else config if key in own else "case.yaml" for key in batch},
    )


def _config_hash(job: Job) -> str:
    """SHA-256 of all that decides what is computed, without what makes this run itself and where things lie:
    equal hash, same work.
    """
    content = as_document(job)
    for key in ("run_id", "nonce", "save"):
        content.pop(key, None)
    del content["data"]["file"]
    content["data"].get("samples", {}).pop("images", None)
    content.get("questions", {}).pop("file", None)
    content["data"].get("index", {}).pop("file", None)
    if job.program is not None:
        content["program"]["argv"] = megatron.without_paths(job.program)
        del content["program"]["directory"]
    if "initial" in content:
        content["initial"] = {
            "manifests": content["initial"]["manifests"],
            "projector": content["initial"]["projector"] is not None,
        }
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode("utf-8")).hexdigest()
