"""The shape of result.json and of `nx8 report --format json`, as their JSON Schemas describe it. derive/ and
report/ make the documents; nothing reads them back into these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge

from orchestrator.document import Document

Count = Annotated[int, Ge(0)]
Number = float | int
Verdict = Literal["MEASURED", "INVALID", "FAILED", "NOT_RUN"]
Direction = Literal["higher", "lower", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    run_id: str
    created_utc: str
    nonce: str
    cluster: str
    vendor: str
    transport: str
    argv: list[str] | None
    #: Of a run that a nightly started: nodes left out and replaced, each with its reason; null as planned.
    staffing: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """`host`: the machine that nx8 ran on; `nodes`: node name → its facts; `images`: tag → what it is, in
    older results its id alone. Unknown facts are null, with the reason in the node's `unknown`.
    """

    host: dict[str, Any] | None
    git: dict[str, Any] | None
    nodes: dict[str, dict[str, Any]] | None = None
    images: dict[str, str | dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    name: str
    seconds: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """`path` below the run's or the cell's folder."""

    path: str
    size: Count
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    why: str
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    label: str
    compute_dtype: str
    mechanism: str
    loss_scale_window: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    data_parallel_size: Count
    world_size: Count
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """global_batch_size = micro_batch_size × data_parallel_size × gradient_accumulation_steps."""

    sequence_length: Count
    micro_batch_size: Count
    gradient_accumulation_steps: Count
    data_parallel_size: Count
    world_size: Count
    global_batch_size: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    warmup_steps: Count
    measured_steps: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """FLOPs per token = multiplier × parameters."""

    multiplier: Count
    parameters: Count
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The device's dense peak for `dtype`; null with its reason."""

    dtype: str
    tflops: Number | None
    source: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    name: str
    held: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A value, or null with the reason; fractions are fractions. docs/metrics.md says what each is."""

    value: Number | None
    unit: str
    direction: Direction
    reason: str | None
    formula: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What the case's published document says beside what the run found out."""

    words: Document
    default_batch: dict[str, int]
    sources: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """The host read this step's record so long after it had started the launcher."""

    rank: Count
    step: Count
    after_s: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """A node, or one rank of it, that computed `factor` times as long as the faster half."""

    what: Literal["node", "rank"]
    node: str
    rank: Count | None
    factor: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a container came to its end, by docker's word and its launcher's together."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSeen:
    started: bool
    not_run_reason: str | None
    launcher_exit: int | None
    launcher_wall_s: Number | None
    stopped: str | None
    detail: str
    sighted: list[Sighting] | None = None
    oom_killed: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankProblem:
    line: int
    reason: str
    sample: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    rank: Count
    node_rank: Count
    records: Count
    problems: list[RankProblem]
    hostname: str | None
    os: str | None
    device_name: str | None
    versions: dict[str, str | None]
    dropped_bytes: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One case × device × scale × stage of a run."""

    cell_id: str
    case: str
    vendor: str
    device: str
    device_display: str
    num_nodes: Count
    devices_per_node: Count
    stage: str | None
    proxy: Proxy | None
    config_hash: str
    columns: list[str]
    fix_hp: str
    changed: dict[str, str]
    engine: str
    device_type: str
    backend: str
    precision: Precision
    parallel: Parallel
    zero_stage: Count
    recompute: str
    attention: str
    seed: Count
    batch: Batch
    steps: Steps
    model: dict[str, Any]
    data: dict[str, Any]
    flops: Flops
    peak: Peak
    verdict: Verdict
    reasons: list[str]
    cause_rank: int | None
    traceback: str | None
    proofs: list[Proof]
    metrics: dict[str, Metric]
    host_seen: HostSeen
    ranks: list[Rank]
    files: list[File]
    rehearsal: str | None = None
    degraded: list[Slow] | None = None
    link_drops: int | None = None
    endings: dict[str, Ending] | None = None
    document: Words | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a stage that was tried more than once; the one without problems went well."""

    stage: str
    number: Count
    problems: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """result.json of a run."""

    schema: Literal["nx8.result/1"]
    parser_version: int
    nx8_version: str | None
    run: Run
    environment: Environment
    phases: list[Phase] | None
    overhead_s: Number | None
    exit_code: Count
    files: list[File]
    cells: list[Cell]
    attempts: list[Attempt] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportColumn:
    name: str
    heading: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportMetric:
    value: Number | None
    unit: str
    direction: Direction
    reason: str | None
    formula: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """`texts`: what the table shows, by column; `metrics`: the figures with every digit."""

    cell_id: str
    case: str
    verdict: Verdict
    proxy: bool
    reasons: list[str]
    texts: dict[str, str]
    metrics: dict[str, ReportMetric]
    notes: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportEntry:
    label: str
    text: str | None
    notes: list[int]
    children: list[ReportEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportBlock:
    name: str
    heading: str
    entries: list[ReportEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralRow:
    name: str
    label: str
    text: str
    notes: list[int]
    remark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportDocument:
    """One case's published document; `cells`: the rows of its table, by cell_id."""

    case: str
    title: str
    environment: list[ReportBlock]
    batch: list[ReportEntry]
    general: list[GeneralRow]
    preface: str | None
    columns: list[ReportColumn]
    cells: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`nx8 report --format json`. `notes`: number → text."""

    schema: Literal["nx8.report/1"]
    run_id: str
    language: Literal["zh", "en"]
    columns: list[ReportColumn]
    rows: list[ReportRow]
    documents: list[ReportDocument]
    notes: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorCheck:
    """One thing that was looked at. `name` is the table's row; `fix_…` one line for a shell."""

    name: str
    severity: Literal["ok", "warn", "bad", "unasked"]
    code: str | None
    owner: Literal["node", "user", "vendor"] | None
    text_en: str
    text_zh: str
    fix_en: str | None
    fix_zh: str | None
    shown: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorNode:
    """`login`: the command that gets there, empty for this machine."""

    name: str
    address: str
    login: str
    severity: Literal["ok", "warn", "bad", "unasked"]
    checks: list[DoctorCheck]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepFigure:
    """A rate: the median over `batches` that filled `seconds`, `best` the fastest of them; null with its
    `reason`. algbw and busbw are of all-reduce alone, as nccl-tests define them.
    """

    value: Number | None
    best: Number | None
    unit: str
    seconds: Number | None
    batches: Count | None
    reason: str | None
    algbw: Number | None
    busbw: Number | None
    details: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepDevice:
    node: str
    index: int
    device: str | None
    torch: str | None
    figures: dict[str, DeepFigure]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepReduce:
    """All-reduce over the devices of these nodes; the slowest rank's figure."""

    nodes: list[str]
    figure: DeepFigure


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepOutlier:
    """A device (`index`), node or pair that is slower than its own peers; `factor` = value ÷ median."""

    figure: str
    nodes: list[str]
    index: int | None
    value: Number
    median: Number
    factor: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Deep:
    """`skipped` and `failed`: node → why it was not measured; `stored`: files of ceilings."""

    at_utc: str
    seconds: Number
    least_s: Number
    devices: list[DeepDevice]
    within: list[DeepReduce]
    pairs: list[DeepReduce]
    whole: DeepReduce | None
    outliers: list[DeepOutlier]
    skipped: dict[str, str]
    failed: dict[str, str]
    stored: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor:
    """`nx8 doctor --json`. `usable` are the nodes that can run what is planned; `here` is about this
    machine's own files.
    """

    schema: Literal[1]
    cluster: str
    vendor: str
    device: str
    num_nodes: Count
    devices_per_node: Count
    rehearsal: bool
    at_utc: str
    seconds: Number
    severity: Literal["ok", "warn", "bad", "unasked"]
    exit_code: Literal[0, 3]
    usable: list[str]
    here: list[DoctorCheck]
    nodes: list[DoctorNode]
    deep: Deep | None = None
