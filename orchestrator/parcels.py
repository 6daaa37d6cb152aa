"""What the cells of a run read, brought from this machine's data folder to every node and proven there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator import data, docker, multimodal, weights
from orchestrator.errors import PreflightError, Problem
from orchestrator.multimodal.preparedset import IMAGE_FOLDER, IMAGE_LIST, MANIFEST

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.plan import Plan
    from orchestrator.remote.pool import Pool
    from orchestrator.remote.remote import Remote
    from orchestrator.ui import View

COPY_LIMIT_S = 1800.0
#: Files whose digests a node is asked for in one question, and how many wrong ones are named.
ASKED_AT_ONCE = 200
MAX_NAMED = 20


def needed(planned: Plan) -> dict[str, str | None]:
    """By name what nodes need of the data folder: token files, sets and weights; for a set that does not
    bring its images, the folder where they lie.
    """
    found: dict[str, str | None] = {}
    for cell in planned.cells:
        job = cell.job
        images = job.data.samples.images if job.data.samples else None
        found[job.data.name] = images and images.removeprefix(f"{docker.CONTAINER_DATA}/")
        if job.questions is not None:
            found[job.questions.name] = None
        for folder in job.initial.folders if job.initial else ():
            found[folder.rpartition("/")[2]] = None
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """Files of the data folder by their path below it, each with its SHA-256, in the order in which they are
    copied: what says that all is there comes last.
    """

    name: str
    files: dict[str, str]


def parcel(source: Path, name: str) -> Parcel:
    """A token file, a prepared set or published weights, checked here first. Raises ConfigError."""
    if multimodal.is_set(source, name):
        return _set_parcel(source, name)
    if (source / name / weights.MANIFEST).is_file():
        manifest, digest = weights.listed(source, name)
        files = {f"{name}/{file.name}": file.sha256 for file in manifest.files}
        return Parcel(name=name, files={**files, f"{name}/{weights.MANIFEST}": digest})
    made = data.verify(source, name)
    if made.index is not None:
        return Parcel(name=name, files={f"{name}.bin": made.sha256, f"{name}.idx": made.index.sha256})
    return Parcel(name=name, files={f"{name}.tokens": made.sha256})


def _set_parcel(source: Path, name: str) -> Parcel:
    manifest = multimodal.verify(source, name)
    files = {f"{name}/{file.name}": file.sha256 for file in manifest.files}
    if manifest.images_in_set:
        lines = (source / name / IMAGE_LIST).read_text("utf-8").splitlines()
        for digest, _, image in (line.partition("  ") for line in lines):
            files[f"{name}/{IMAGE_FOLDER}/{image}"] = digest
    last = f"{name}/{MANIFEST}"
    return Parcel(name=name, files={**files, last: data.file_sha256(source / last)})


def hand_out(
    pool: Pool,
    name: str,
    *,
    source: Path,
    folder: str,
    nodes: tuple[str, ...],
    view: View,
    images: str | None = None,
) -> None:
    """Every node gets the token file, set or weights `name` of `source` in its `folder`: what is missing is
    copied and proven by its SHA-256, what is there and wrong is named. `images` is a folder below it that has
    to be there already: a set's images are not copied. Raises ConfigError or PreflightError (E237, E127).
    """
    wanted = parcel(source, name)
    paths = {f"{folder}/{file}": digest for file, digest in wanted.files.items()}
    held = pool.each(lambda remote: _held(remote, tuple(paths)), nodes=nodes)
    wrong = [
        (node, path, seen[path])
        for node, seen in held.items()
        for path in paths
        if seen[path] not in (None, paths[path])
    ]
    if wrong:
        raise PreflightError(
            _not_the_data(node, path, seen, paths[path]) for node, path, seen in wrong[:MAX_NAMED]
        )
    if images is not None:
        _look_for_images(pool, f"{folder}/{images}", nodes)
    missing = {node: [path for path in paths if seen[path] is None] for node, seen in held.items()}
    missing = {node: ones for node, ones in missing.items() if ones}
    if not missing:
        return
    view.phase("data", f"{name} to {', '.join(missing)}")

    def copy(remote: Remote) -> None:
        lacking = missing[remote.name]
        remote.make_dirs(folder, *sorted({path.rpartition("/")[0] for path in lacking}))
        for path in lacking:
            here = source / path.removeprefix(f"{folder}/")
            arrived = remote.write(path, data.chunks(here), timeout_s=COPY_LIMIT_S)
            if arrived != paths[path]:
                raise PreflightError(_not_the_data(remote.name, path, arrived, paths[path]))

    pool.each(copy, nodes=tuple(missing))


def _held(remote: Remote, paths: tuple[str, ...]) -> dict[str, str | None]:
    """SHA-256 of what is there, a few hundred files at a time: the answer has a limit."""
    found: dict[str, str | None] = {}
    for at in range(0, len(paths), ASKED_AT_ONCE):
        some = paths[at : at + ASKED_AT_ONCE]
        found |= dict(zip(some, remote.sha256(*some), strict=True))
        silent = [path for path in some if found[path] is None]
        for path, one in zip(silent, remote.stat(*silent) if silent else (), strict=True):
            if one.get("exists") is not False:
                # Never written over: a link may lead to data that others use.
                found[path] = (
                    f"not to be had, it is a {one.get('kind', 'file')} that our account does not read"
                )
    return found


def _look_for_images(pool: Pool, path: str, nodes: tuple[str, ...]) -> None:
    found = pool.each(lambda remote: remote.stat(path)[0], nodes=nodes)
    absent = [node for node, seen in found.items() if seen.get("kind") not in ("folder", "link")]
    if absent:
        raise PreflightError(
            Problem(
                code="E127",
                message=f"{node}: {path} is no folder: the images of the set have to lie there",
                help="images are not copied by nx8: put them on every node, or mount them there",
            )
            for node in absent
        )


def _not_the_data(node: str, target: str, seen: str | None, wanted: str) -> Problem:
    return Problem(
        code="E237",
        message=f"{node}: {target} is not the data of the plan: its sha256 is {seen}",
        help=f"planned is {wanted}; remove the file there, or plan with that data",
    )
