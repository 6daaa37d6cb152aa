"""Vendor → what stands in for its accelerators on a node: device files, container runtimes, the probe tool.
Pure; all of it comes from the vendor's data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from orchestrator.probe import stand_in

if TYPE_CHECKING:
    from orchestrator.vendors import Vendor

#: The program dockerd looks for on its PATH before it accepts --gpus; the name is docker's own.
GPUS_HOOK = "nvidia-container-runtime-hook"
#: What stands in for a vendor's container runtime, and is every node's own as well.
RUNTIME = "nx8-lab-runtime"
HOOK = "#!/bin/sh\n# Asked before a container starts; there is no accelerator to add.\nexec cat >/dev/null\n"
QUANTITIES = ("temperature", "power", "memory_used", "memory_total", "utilisation")
BIN = "usr/local/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIns:
    """Paths of `programs` and `texts` are relative to the node's root; `devices` are absolute there."""

    devices: tuple[str, ...]
    folders: tuple[str, ...]
    programs: dict[str, str]
    texts: dict[str, str]
    daemon: dict[str, Any]
    references: tuple[str, ...]


#: A node without accelerators: the one that makes the base image.
NONE = StandIns(devices=(), folders=(), programs={}, texts={}, daemon={}, references=())


def of(vendor: Vendor, *, num_devices: int, cgroup: str) -> StandIns:
    programs = {f"{BIN}/{RUNTIME}": shipped("runtime.py")}
    texts = {}
    daemon: dict[str, Any] = {
        "runtimes": {RUNTIME: {"path": f"/{BIN}/{RUNTIME}"}},
        "default-runtime": RUNTIME,
    }
    if vendor.docker.runtime is not None:
        daemon["runtimes"][vendor.docker.runtime] = {"path": f"/{BIN}/{RUNTIME}"}
    if vendor.docker.gpus:
        programs[f"{BIN}/{GPUS_HOOK}"] = HOOK
    if vendor.probe is not None:
        programs[_tool(vendor.probe.argv[0])] = shipped("accelerator.py")
        settings = {
            "devices": num_devices,
            "cgroup": cgroup,
            "names": QUANTITIES,
            "form": stand_in(vendor.probe),
        }
        texts["etc/nx8/accelerator.json"] = json.dumps(settings, indent=1)
    return StandIns(
        devices=vendor.device_files(num_devices=num_devices),
        folders=tuple(vendor.docker.volumes),
        programs=programs,
        texts=texts,
        daemon=daemon,
        references=tuple(dict.fromkeys(image.reference for image in vendor.images.values())),
    )


def _tool(argv0: str) -> str:
    """Where the probe tool goes: on the PATH, or where its path says."""
    return argv0.lstrip("/") if argv0.startswith("/") else f"{BIN}/{PurePosixPath(argv0).name}"


def shipped(name: str) -> str:
    """The text of a file that runs on nodes."""
    return files("orchestrator.lab.files").joinpath(name).read_text("utf-8")


def repositories(references: tuple[str, ...], image_id: str) -> dict[str, Any]:
    """docker's own table of names (repositories.json), with every reference naming one image.

    Written before dockerd starts, because no command gives an image a digest: it comes from a registry or,
    here, from this table.
    """
    table: dict[str, dict[str, str]] = {}
    for reference in references:
        name, _, digest = reference.partition("@")
        head, _, tag = name.rpartition(":")
        if not head or "/" in tag:
            head, tag = name, "latest"
        head = _familiar(head)
        names = table.setdefault(head, {})
        names[f"{head}:{tag}"] = image_id
        if digest:
            names[f"{head}@{digest}"] = image_id
    return {"Repositories": table}


def _familiar(repository: str) -> str:
    """A repository as docker writes it: docker.io and its library folder go without saying."""
    first, slash, rest = repository.partition("/")
    if slash and first in ("docker.io", "index.docker.io"):
        repository = rest
    return repository.removeprefix("library/") if repository.count("/") == 1 else repository
