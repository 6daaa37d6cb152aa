"""dockerfiles/<vendor>/vendor.yaml → Vendor: on whose accelerators a run happens. A vendor is data; no code
names one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from orchestrator.linear import compiled
from orchestrator.text import (
    AbsolutePath,
    Capability,
    Commit,
    DevicePath,
    Digest,
    EnvName,
    ImageTag,
    LayoutLine,
    Line,
    ModuleName,
    Name,
    PlainUrl,
    Regex,
    Registry,
    Repository,
    Requirement,
    UlimitName,
)

if TYPE_CHECKING:
    from collections.abc import Collection

#: What stands for the cluster's network device in `interface_variables`.
INTERFACE = "{interface}"
ComputeDtype = Literal["fp32", "tf32", "bf16", "fp16"]
Engine = Literal["deepspeed", "ddp", "native", "megatron"]
#: What only some works ask of an image: flash attention's kernels, and a reader of image files.
Need = Literal["flash_attn_2", "images"]
#: What a probe can say of a device, besides which one it is.
Quantity = Literal["temperature", "power", "memory_used", "memory_total", "utilisation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Dense peak arithmetic of one device as torch sees it (a die, where a card has several).

    `tflops` is null when unknown, and then `reason` says why; a known figure names its `source`.
    `contradicted` notes other public figures for the same thing.
    """

    tflops: Annotated[float, Gt(0)] | None
    source: Line | None = None
    reason: Line | None = None
    contradicted: tuple[Line, ...] = ()

    def __post_init__(self) -> None:
        if self.tflops is not None and self.source is None:
            raise ValueError("a peak figure needs its source: where is this number published?")
        if self.tflops is None and self.reason is None:
            raise ValueError(
                "an unknown peak (null) needs a reason; without it nobody knows why there is no MFU"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator model of a vendor."""

    display_name: Line
    peaks: dict[ComputeDtype, Peak]
    memory_gib: Annotated[float, Gt(0)] | None = None
    memory_source: Line | None = None
    memory_reason: Line | None = None

    def __post_init__(self) -> None:
        if self.memory_gib is None and self.memory_reason is None:
            raise ValueError("memory_gib is null: say why in memory_reason")

    def peak(self, dtype: str) -> Peak:
        """The peak for `dtype`; an unlisted one is unknown, with that as the reason."""
        for listed, peak in self.peaks.items():
            if listed == dtype:
                return peak
        return Peak(tflops=None, reason=f"no {dtype} peak is listed for {self.display_name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchStack:
    """How torch reaches the device: names that the trainer looks up, never branches on."""

    device_type: Name
    backend: Name
    plugin: ModuleName | None = None
    deepspeed_accelerator: Name | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A combination that the vendor's stack cannot run; planning refuses it with `reason`. Empty fields
    match anything.
    """

    reason: Line
    engine: Engine | None = None
    compute_dtype: ComputeDtype | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The image that a vendor's stack comes in.

    An image that no registry offers to everyone has the registry `localhost`, which nothing is ever pulled
    from, and says so in `not_published`; a site names its own copy in `site.base_image`.
    """

    registry: Registry
    repository: Repository
    tag: ImageTag
    digest: Digest | None = None
    not_pinned: Line | None = None
    not_published: Line | None = None
    source: Line

    def __post_init__(self) -> None:
        if self.digest is None and self.not_pinned is None:
            raise ValueError("an image without digest may change under its tag: say why in not_pinned")
        if (self.registry == "localhost") != (self.not_published is not None):
            raise ValueError(
                "registry localhost and not_published belong together: nobody can pull this image"
            )

    @property
    def reference(self) -> str:
        name = f"{self.registry}/{self.repository}:{self.tag}"
        return f"{name}@{self.digest}" if self.digest else name


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSource:
    """Where an external program's source is from, at which commit, and where it lies in the image."""

    repository: PlainUrl
    commit: Commit
    directory: AbsolutePath
    source: Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A Python module that the trainer needs. Where the base image lacks it, `requirement` is installed;
    without one the image has to have it, for `reason`. Empty `engines` means all; with `needs` it is only for
    works that need one of them.
    """

    module: ModuleName
    requirement: Requirement | None = None
    reason: Line | None = None
    engines: tuple[Engine, ...] = ()
    needs: tuple[Need, ...] = ()

    def __post_init__(self) -> None:
        if self.requirement is None and self.reason is None:
            raise ValueError(
                f"{self.module}: name its requirement, or say in `reason` why only the image has it"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Docker:
    """What a container of this vendor is given beyond the common, and nothing more.

    `devices` are device files; `{index}` at the end stands for each device of the node in use. `gpus` asks
    docker's own --gpus for those devices. `volumes` are the node's folders of driver files, mounted read-only
    at the same place. `environment` is what the container runtime reads, not the program.
    """

    devices: tuple[DevicePath, ...] = ()
    groups: tuple[Name, ...] = ()
    runtime: Name | None = None
    gpus: bool = False
    volumes: tuple[AbsolutePath, ...] = ()
    environment: dict[EnvName, Line] = field(default_factory=dict)
    shm_size_gib: Annotated[float, Gt(0), Le(4096)] = 32.0
    ulimits: dict[UlimitName, Annotated[int, Ge(-1)]] = field(
        default_factory=lambda: {"memlock": -1, "stack": 67108864}
    )
    pids_limit: Annotated[int, Ge(64), Le(4194304)] = 32768
    ipc: Literal["private", "shareable", "host"] = "private"
    capabilities: tuple[Capability, ...] = ()
    privileged: bool = False
    privileged_reason: Line | None = None

    def __post_init__(self) -> None:
        if self.privileged and self.privileged_reason is None:
            raise ValueError(
                "privileged needs privileged_reason: which part of the stack cannot do without it?"
            )
        if self.privileged_reason is not None and not self.privileged:
            raise ValueError("privileged_reason stands without privileged")
        if any(".." in path.split("/") for path in self.volumes):
            raise ValueError("a volume's path goes down only, without '..'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisation:
    """One optimisation in the words of the published documents, and the environment that makes it.

    `needs` are files, as the container sees them, without which it does nothing. One without environment is
    a setting of the case.
    """

    words: Line
    source: Line
    environment: dict[EnvName, Line] = field(default_factory=dict)
    needs: tuple[AbsolutePath, ...] = ()
    engines: tuple[Engine, ...] = ()
    on: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCommand:
    """A command that reads one version of the stack, on the node or inside the image.

    The first line of its output in which `regex` is found decides; its one group is the version. `example`
    shows such a line: its form is meant, not its figure.
    """

    where: Literal["node", "image"]
    argv: Annotated[tuple[Line, ...], MinLen(1)]
    regex: Regex
    example: Line

    def __post_init__(self) -> None:
        _check_regex(self.regex, groups=1)
        if not compiled(self.regex).search(self.example):
            raise ValueError(f"{self.regex!r} is not found in its example {self.example!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCommand:
    """The command that names the accelerators of a node: every line of its output in which `regex` is found
    is a device, its one group the model. `example` shows such a line.
    """

    argv: Annotated[tuple[Line, ...], MinLen(1)]
    regex: Regex
    example: Line
    source: Line

    def __post_init__(self) -> None:
        _check_regex(self.regex, groups=1)
        if not compiled(self.regex).search(self.example):
            raise ValueError(f"{self.regex!r} is not found in its example {self.example!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvParser:
    """One line a device. `separator` null means any run of spaces. `columns` are positions, from 0, or, where
    the first line is a header, names in it: the first that is there counts.
    """

    kind: Literal["csv"]
    columns: dict[Literal["index"] | Quantity, int | tuple[Line, ...]]
    separator: Literal[",", ";", "|", "\t"] | None = ","
    ignore: tuple[Regex, ...] = ()

    def __post_init__(self) -> None:
        _check_regexes(self.ignore)

    @property
    def has_header(self) -> bool:
        return any(not isinstance(column, int) for column in self.columns.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TableParser:
    """One device is some consecutive `rows` of a table drawn for people. Each row is a list of expressions,
    tried in order, with named groups for what they read; `ignore` knows the lines between.
    """

    kind: Literal["table"]
    rows: Annotated[tuple[Annotated[tuple[Regex, ...], MinLen(1)], ...], MinLen(1)]
    ignore: tuple[Regex, ...] = ()

    def __post_init__(self) -> None:
        _check_regexes((*(regex for row in self.rows for regex in row), *self.ignore))
        known = {"index", "temperature", "power", "memory_used", "memory_total", "utilisation"}
        for row in self.rows:
            for regex in row:
                strange = sorted(set(compiled(regex).groupindex) - known)
                if strange:
                    raise ValueError(
                        f"{regex!r} names {', '.join(strange)}; known are {', '.join(sorted(known))}"
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockParser:
    """One device is a line that `starts` it (a group `index` says which), and below it one line a quantity.

    Each expression has one group. The first line that fits counts: memory stands twice in some blocks.
    """

    kind: Literal["blocks"]
    starts: Regex
    lines: dict[Quantity, Regex]

    def __post_init__(self) -> None:
        _check_regexes((self.starts,))
        for regex in self.lines.values():
            _check_regex(regex, groups=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """How one quantity is written: its unit, what follows the figure, and the figures after the point.

    `percent_of_capacity` is for probes that say of memory only how full it is.
    """

    unit: Literal["C", "W", "mW", "B", "KiB", "MiB", "GiB", "percent", "percent_of_capacity", "fraction"]
    suffix: LayoutLine = ""
    decimals: Annotated[int, Ge(0), Le(9)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the probe's output looks, for stand-ins and for tests: `{power}` is the quantity, `{power:>6}` the
    same at the right of six places.
    """

    head: tuple[LayoutLine, ...] = ()
    each: Annotated[tuple[LayoutLine, ...], MinLen(1)]
    foot: tuple[LayoutLine, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The vendor's tool that says how its devices are, and how its output is read.

    A quantity that is not in `quantities` is not offered by the tool.
    """

    argv: Annotated[tuple[Line, ...], MinLen(1)]
    source: Line
    parser: CsvParser | TableParser | BlockParser
    quantities: dict[Quantity, Column]
    layout: Layout
    not_available: tuple[Line, ...] = ("N/A",)
    interval_s: Annotated[float, Ge(0.2), Le(3600)] = 5.0
    limit_s: Annotated[float, Gt(0), Le(600)] = 20.0

    def __post_init__(self) -> None:
        if not self.not_available:
            raise ValueError(
                "not_available needs one word at least: what does the tool write when it cannot know?"
            )
        for name, column in self.quantities.items():
            if column.unit not in UNITS_OF[name]:
                raise ValueError(f"{name} in {column.unit}: wants one of {', '.join(UNITS_OF[name])}")


UNITS_OF: dict[str, tuple[str, ...]] = {
    "temperature": ("C",),
    "power": ("W", "mW"),
    "memory_used": ("B", "KiB", "MiB", "GiB", "percent_of_capacity"),
    "memory_total": ("B", "KiB", "MiB", "GiB"),
    "utilisation": ("percent", "fraction"),
}


def _check_regexes(regexes: tuple[str, ...]) -> None:
    for regex in regexes:
        compiled(regex)


def _check_regex(regex: str, *, groups: int) -> None:
    if compiled(regex).groups != groups:
        raise ValueError(f"{regex!r} has {compiled(regex).groups} groups; wants {groups}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """A maker's whole stack as this project drives it.

    `environment` is given to every rank; `visible_devices` is the variable that tells the stack which devices
    are its. `interface_variables` tell its collectives which network device to use: variable → value, where
    `{interface}` stands for the cluster's. `images` is by engine, `any` for the others; `programs` has the
    source of engines that are external programs.
    """

    schema: Literal[1]
    display_name: Line
    torch: TorchStack
    devices: Annotated[dict[Name, Device], MinLen(1)]
    launcher: Literal["fork", "torchrun"] = "torchrun"
    environment: dict[EnvName, Line] = field(default_factory=dict)
    refuses: tuple[Refusal, ...] = ()
    images: dict[Engine | Literal["any"], Image] = field(default_factory=dict)
    packages: tuple[Package, ...] = ()
    programs: dict[Engine, ProgramSource] = field(default_factory=dict)
    docker: Docker = field(default_factory=Docker)
    visible_devices: EnvName | None = None
    interface_variables: dict[EnvName, Line] = field(default_factory=dict)
    model: ModelCommand | None = None
    probe: Probe | None = None
    probe_reason: Line | None = None
    versions: dict[Name, VersionCommand] = field(default_factory=dict)
    optimisations: tuple[Optimisation, ...] = ()

    def __post_init__(self) -> None:
        if self.probe is not None and self.probe_reason is not None:
            raise ValueError("probe_reason says why there is no probe, but there is one")
        for name, value in self.interface_variables.items():
            if value.count(INTERFACE) != 1:
                raise ValueError(f"interface_variables: {name} has to hold {INTERFACE} once")

    def refusal(self, *, engine: str, compute_dtype: str) -> Refusal | None:
        """The first refusal that covers this combination, if any."""
        for refusal in self.refuses:
            if refusal.engine in (None, engine) and refusal.compute_dtype in (None, compute_dtype):
                return refusal
        return None

    def image(self, engine: str) -> Image | None:
        """The base image for an engine, or None where none is listed."""
        for listed, image in self.images.items():
            if listed == engine:
                return image
        return self.images.get("any")

    def packages_of(self, engine: str, needs: Collection[str] = ()) -> tuple[Package, ...]:
        """Those of a work with this engine that needs so much of its image."""
        return tuple(
            package
            for package in self.packages
            if (not package.engines or engine in package.engines)
            and (not package.needs or set(needs).intersection(package.needs))
        )

    def optimisations_of(self, engine: str) -> tuple[Optimisation, ...]:
        """Those that a run with this engine uses."""
        return tuple(
            one for one in self.optimisations if one.on and (not one.engines or engine in one.engines)
        )

    def environment_of(self, engine: str, *, num_devices: int) -> dict[str, str]:
        """What the container's processes are given: the stack's own, its optimisations, its devices."""
        given: dict[str, str] = dict(self.environment)
        for one in self.optimisations_of(engine):
            given |= one.environment
        given |= self.docker.environment
        if self.visible_devices is not None:
            given[self.visible_devices] = ",".join(map(str, range(num_devices)))
        return given

    def interface_environment(self, interface: str | None) -> dict[str, str]:
        """What tells the vendor's collectives the network device; nothing where the cluster names none."""
        if interface is None:
            return {}
        return {name: value.replace(INTERFACE, interface) for name, value in self.interface_variables.items()}

    def device_files(self, *, num_devices: int) -> tuple[str, ...]:
        """The device files that a container with `num_devices` devices is given, each once."""
        return tuple(
            dict.fromkeys(
                pattern.replace("{index}", str(index))
                for pattern in self.docker.devices
                for index in range(num_devices if "{index}" in pattern else 1)
            )
        )
