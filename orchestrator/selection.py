"""What a person asked for → the files it means, read and checked together, every problem of every file at
once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from orchestrator.cases import Case
from orchestrator.cluster import Cluster
from orchestrator.configs import DeviceConfig
from orchestrator.errors import ConfigError, Problem
from orchestrator.load import load
from orchestrator.vendors import Vendor

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.workspace import Workspace

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """One case with one config of the device. `label` is what the config's name has behind device and scale,
    where there are several of them; `config_name` the whole name, null where none was read.
    """

    name: str
    case: Case
    config: DeviceConfig
    label: str | None = None
    config_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """All that a plan is made of, by name and by value."""

    cluster_name: str
    cluster: Cluster
    vendor_name: str
    vendor: Vendor
    cases: tuple[Chosen, ...]


def select(
    workspace: Workspace,
    *,
    cases: tuple[str, ...],
    vendor: str | None,
    cluster: str | None,
    nodes: tuple[str, ...] = (),
) -> Selection:
    """Reads the cluster, its vendor, and the cases with their config for that device and scale.

    Without `cluster`, the only cluster file of that vendor, or of several the only one that all the cases
    have a config for (`local` where no vendor is named either); without `cases`, every case that has a config
    for it. `CASE:LABEL` is one of several configs of a device and scale; `nodes` are those of the cluster and
    its spares to use, without any all of the cluster. Raises one ConfigError that lists all that is missing
    or wrong.
    """
    problems: list[Problem] = []
    where = _site(workspace, vendor=vendor, cluster=cluster, cases=cases, problems=problems)
    cluster_name, site, vendor_name, stack = where
    site = _on(site, nodes, problems)
    chosen = _cases(workspace, cases, site, problems)
    if problems or site is None or stack is None or cluster_name is None or vendor_name is None:
        raise ConfigError(_once(problems))
    return Selection(
        cluster_name=cluster_name, cluster=site, vendor_name=vendor_name, vendor=stack, cases=tuple(chosen)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A cluster and its vendor, by name and by value, whatever is to be trained there."""

    cluster_name: str
    cluster: Cluster
    vendor_name: str
    vendor: Vendor


def site_of(workspace: Workspace, *, vendor: str | None, cluster: str | None) -> Site:
    """As `select` finds them. Raises ConfigError with all that is missing or wrong."""
    problems: list[Problem] = []
    cluster_name, site, vendor_name, stack = _site(
        workspace, vendor=vendor, cluster=cluster, cases=(), problems=problems
    )
    if problems or site is None or stack is None or cluster_name is None or vendor_name is None:
        raise ConfigError(_once(problems))
    return Site(cluster_name=cluster_name, cluster=site, vendor_name=vendor_name, vendor=stack)


def _site(
    workspace: Workspace,
    *,
    vendor: str | None,
    cluster: str | None,
    cases: tuple[str, ...],
    problems: list[Problem],
) -> tuple[str | None, Cluster | None, str | None, Vendor | None]:
    """Name and value of cluster and vendor; what is missing or wrong is None, and in `problems`."""
    cluster_name = cluster or _cluster_of(workspace, vendor, cases, problems)
    site = _read(workspace, workspace.cluster_file(cluster_name), Cluster, problems) if cluster_name else None
    vendor_name = vendor or (site.vendor if site else None)
    stack = _read_vendor(workspace, vendor_name, problems) if vendor_name else None
    if site and vendor_name and site.vendor != vendor_name:
        problems.append(
            Problem(
                code="E110",
                file=workspace.shown(workspace.cluster_file(cluster_name or "")),
                message=f"this cluster's vendor is {site.vendor!r}, but {vendor_name!r} was asked for",
                help="name another cluster with --cluster, or leave --vendor away",
            )
        )
    if site and stack and site.device not in stack.devices:
        problems.append(
            Problem(
                code="E110",
                file=workspace.shown(workspace.cluster_file(cluster_name or "")),
                message=f"device {site.device!r} is not one of vendor {vendor_name!r}",
                help=f"its devices: {', '.join(stack.devices)}",
            )
        )
    return cluster_name, site, vendor_name, stack


def _on(site: Cluster | None, nodes: tuple[str, ...], problems: list[Problem]) -> Cluster | None:
    """The cluster on the nodes that were named, or as it is."""
    if site is None or not nodes:
        return site
    try:
        return site.on(nodes)
    except ValueError as error:
        problems.append(Problem(code="E112", message=str(error), help="spell them as in the cluster file"))
        return None


def _once(problems: list[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))


def _cluster_of(
    workspace: Workspace, vendor: str | None, cases: tuple[str, ...], problems: list[Problem]
) -> str | None:
    """The cluster file meant by a vendor alone: the only one, where there is one; else the only one that all
    the cases have a config for.
    """
    if vendor is None:
        return "local"
    unreadable: list[Problem] = []
    found: list[str] = []
    fitting: list[str] = []
    for name in workspace.cluster_names():
        quiet: list[Problem] = []
        site = _read(workspace, workspace.cluster_file(name), Cluster, quiet)
        if site is None:
            unreadable += quiet
        elif site.vendor == vendor and (not site.cases or (cases and set(_names(cases)) <= set(site.cases))):
            found.append(name)
            fitting += [name] * all(_configs_of(workspace, case, site.scale) for case in cases)
    if len(found) == 1:
        return found[0]
    if len(fitting) == 1:
        return fitting[0]
    if found:
        problems.append(
            Problem(
                code="E112",
                message=f"{len(found)} cluster files are of vendor {vendor!r}: {', '.join(found)}",
                help=f"choose one: --cluster {found[0]}   (make bench: CLUSTER={found[0]})",
            )
        )
        return None
    problems += unreadable
    missing = workspace.shown(workspace.clusters / "<name>.yaml")
    problems.append(
        Problem(
            code="E112",
            message=f"no cluster file names vendor {vendor!r}: {missing} is missing",
            help=(
                f"copy {workspace.shown(workspace.cluster_file('example'))},"
                f" set 'vendor: {vendor}' and your nodes in it,\n"
                f"then run again with --cluster <name>   (make bench: CLUSTER=<name>)"
            ),
        )
    )
    return None


def _read_vendor(workspace: Workspace, name: str, problems: list[Problem]) -> Vendor | None:
    path = workspace.vendor_file(name)
    if not path.is_file():
        known = ", ".join(workspace.vendor_names()) or "none"
        problems.append(
            Problem(
                code="E113",
                message=f"vendor {name!r} is not known here: {workspace.shown(path)} is missing",
                help=(
                    f"known: {known}. To add one, copy {workspace.shown(workspace.vendor_file('cpu'))} and\n"
                    f"fill in its torch device, environment and peaks (docs/configuration.md#vendor)"
                ),
            )
        )
        return None
    return _read(workspace, path, Vendor, problems)


def _cases(
    workspace: Workspace, asked: tuple[str, ...], cluster: Cluster | None, problems: list[Problem]
) -> list[Chosen]:
    """The cases asked for, or every one that has a config for this cluster; problems of all of them."""
    wanted = cluster.scale if cluster else None
    names = asked or tuple(
        name
        for name in workspace.case_names()
        if cluster is None or cluster.rehearsal or _configs_of(workspace, name, wanted or "")
    )
    if not names and wanted:
        problems.append(
            Problem(
                code="E114",
                message=f"no case has a config for {wanted}",
                help=f"write {workspace.shown(workspace.config_file('<case>', wanted))};"
                " one that changes nothing is the line 'schema: 1'",
            )
        )
    chosen = []
    problems += (
        Problem(code="E114", message=f"case {name!r} is named twice", help="name it once")
        for name in sorted({name for name in names if names.count(name) > 1})
    )
    for asked_for in dict.fromkeys(names):
        name, _, label = asked_for.partition(":")
        if not workspace.case_file(name).is_file():
            problems.append(_unknown_case(workspace, name))
            continue
        case = _read(workspace, workspace.case_file(name), Case, problems)
        for file in _wanted_configs(workspace, name, label, cluster, problems) if cluster else ():
            path = workspace.config_file(name, file or "")
            config = _read(workspace, path, DeviceConfig, problems) if file else DeviceConfig(schema=1)
            if case and config:
                problems += _untunable(workspace, name, file or "", case, config)
                one = Chosen(
                    name=name,
                    case=case,
                    config=config,
                    label=_label(file, wanted or ""),
                    config_name=file,
                )
                chosen.append(one)
    return chosen


def _names(cases: tuple[str, ...]) -> list[str]:
    return [case.partition(":")[0] for case in cases]


def _label(config: str | None, scale: str) -> str | None:
    return config.removeprefix(f"{scale}-") if config and config.startswith(f"{scale}-") else None


def _configs_of(workspace: Workspace, case: str, scale: str) -> tuple[str, ...]:
    """Names of the configs that `case`, which may be CASE:LABEL, has for this device and scale."""
    name, _, label = case.partition(":")
    every = (one for one in workspace.config_names(name) if one == scale or _label(one, scale))
    return tuple(one for one in every if not label or _label(one, scale) == label)


def _unknown_case(workspace: Workspace, name: str) -> Problem:
    from difflib import get_close_matches

    known = workspace.case_names()
    near = get_close_matches(name, known, n=1)
    return Problem(
        code="E114",
        message=f"case {name!r} is not known here: {workspace.shown(workspace.case_file(name))} is missing",
        help=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}",
    )


def _wanted_configs(
    workspace: Workspace, case: str, label: str, cluster: Cluster, problems: list[Problem]
) -> tuple[str | None, ...]:
    """Names of the configs for this device and scale. A rehearsal has a scale of its own: it takes the one of
    the device that comes first by name, or none, for its proxy changes the sizes anyway.
    """
    wanted = cluster.scale
    found = _configs_of(workspace, f"{case}:{label}", wanted)
    if found:
        return found
    known = workspace.config_names(case)
    if cluster.rehearsal:
        of_device = [name for name in known if name.startswith(f"{cluster.device}x")]
        named = [name for name in of_device if not label or name.endswith(f"-{label}")]
        if named or not label:
            return (named[0] if named else None,)
    what = f"{wanted}-{label}" if label else wanted
    problems.append(
        Problem(
            code="E115",
            message=f"case {case!r} has no config for {what}: "
            f"{workspace.shown(workspace.config_file(case, what))} is missing",
            help=f"it has: {', '.join(known) or 'none'}. One that changes nothing is the single line "
            "'schema: 1'",
        )
    )
    return ()


def _untunable(
    workspace: Workspace, name: str, wanted: str, case: Case, config: DeviceConfig
) -> list[Problem]:
    return [
        Problem(
            code="E116",
            file=workspace.shown(workspace.config_file(name, wanted)),
            message=f"{key} is not a key that case {name!r} lets a device change",
            help=f"it may change: {', '.join(case.tunable) or 'nothing'}",
        )
        for key in config.changes()
        if key not in case.tunable
    ]


def _read(workspace: Workspace, path: Path, kind: type[T], problems: list[Problem]) -> T | None:
    """The value of one file, or None with its problems added."""
    try:
        return load(path, kind, shown_as=workspace.shown(path))
    except ConfigError as error:
        problems += error.problems
        return None
