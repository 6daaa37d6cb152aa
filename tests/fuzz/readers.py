"""Coverage-guided input for everything that reads what others wrote: none of it may raise anything but the
refusals it documents, and how a file is cut into chunks may change nothing.

    python -m tests.fuzz.readers [-max_total_time=60] [-runs=N] [-seed=N] [CORPUS…]

The arguments are libFuzzer's; the first byte of an input chooses the reader. It starts from the samples of
tests/data. An input that breaks a reader is printed, and the exit code is not 0.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zlib
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
DATA = Path(__file__).parents[1] / "data"
VENDORS = Path(__file__).parents[2] / "dockerfiles"

with atheris.instrument_imports(include=["orchestrator"]):
    from orchestrator import docker
    from orchestrator.errors import ConfigError
    from orchestrator.load import load
    from orchestrator.logfile import document as log_document
    from orchestrator.logfile import judge_log, known_of
    from orchestrator.logfile.table import table_text
    from orchestrator.monitor import read_monitor
    from orchestrator.parse.dialects import LogReader
    from orchestrator.parse.events import EventReader
    from orchestrator.parse.status import read_status
    from orchestrator.probe import read_probe
    from orchestrator.published.lint import lint
    from orchestrator.published.reading import read_document
    from orchestrator.vendors import Vendor
    from tests.cellmaker import honest

PROBES = tuple(
    vendor.probe
    for vendor in (load(file, Vendor) for file in sorted(VENDORS.glob("*/vendor.yaml")))
    if vendor.probe is not None
)
KNOWN = known_of(("sequence_length=8", "world_size=2"))


def events(data: bytes) -> None:
    whole, cut = EventReader(0), EventReader(0)
    whole.feed(data)
    for start in range(0, len(data), 7):
        cut.feed(data[start : start + 7])
    assert whole.finish() == cut.finish()


def sealed_events(data: bytes) -> None:
    """Lines under a true CRC: past the first gate."""
    events(b"".join(b'%s,"crc32":"%08x"}\n' % (line, zlib.crc32(line)) for line in data.split(b"\n")))


def logs(data: bytes) -> None:
    whole, cut = LogReader(), LogReader()
    whole.feed(data)
    for start in range(0, len(data), 11):
        cut.feed(data[start : start + 11])
    reading = whole.finish()
    assert reading == cut.finish()
    try:
        result = judge_log(reading, KNOWN, file="f")
    except ConfigError as refused:
        assert {problem.code for problem in refused.problems} == {"E811"}
        return
    json.dumps(log_document([result]), allow_nan=False)
    table_text([result])


def published(data: bytes) -> None:
    try:
        document = read_document(data, file="f.md", known=())
    except ConfigError:
        return
    lint(document, known=())


def status(data: bytes) -> None:
    read_status(data)


def monitor(data: bytes) -> None:
    read_monitor(data.split(b"\n"), PROBES[len(data) % len(PROBES)])


def probe(data: bytes) -> None:
    read_probe(data[1:], PROBES[(data[0] if data else 0) % len(PROBES)], capacity_bytes=1 << 35)


def engine(data: bytes) -> None:
    for read in (docker.read_inspect, docker.read_image, docker.read_version):
        read(data)


READERS = (events, sealed_events, logs, published, status, monitor, probe, engine)


def seeds() -> list[bytes]:
    made = honest()
    lines = made.lines[0]
    samples = [
        (events, b"".join(lines[:4])),
        (sealed_events, b"\n".join(line[:-20] for line in lines[:4])),
        (status, json.dumps(made.statuses[0]).encode()),
        *((logs, path.read_bytes()[:4000]) for path in sorted((DATA / "logs").glob("*.log"))),
        *((published, path.read_bytes()) for path in sorted((DATA / "published").glob("*.md"))),
        *(
            (probe, bytes([number]) + path.read_bytes())
            for path in sorted((DATA / "probes").glob("*.txt"))
            for number in range(len(PROBES))
        ),
    ]
    return [bytes([READERS.index(reader)]) + data for reader, data in samples]


def one(data: bytes) -> None:
    if data:
        READERS[data[0] % len(READERS)](data[1:])


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="nx8-fuzz-") as folder:
        for number, seed in enumerate(seeds()):
            (Path(folder) / f"seed{number}").write_bytes(seed)
        atheris.Setup([*sys.argv, f"-artifact_prefix={folder}/", folder], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
