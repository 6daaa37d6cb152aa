"""What ranks print: both ends are kept, what is between is counted, and nobody who prints is held up."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "cases" / "trainer"))
output = pytest.importorskip("output")


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=30),
    head=st.integers(0, 60),
    tail=st.integers(0, 60),
)
def test_head_and_tail_and_count_make_the_whole(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], head: int, tail: int
) -> None:
    path = tmp_path_factory.mktemp("stream") / "x.log"
    stream = output.Stream(str(path), head_bytes=head, tail_bytes=tail)
    for piece in pieces:
        stream.take(piece)
    stream.close()
    whole, kept = b"".join(pieces), path.read_bytes()
    if len(whole) <= head + tail:
        assert kept == whole
        assert stream.dropped_bytes == 0
    else:
        assert stream.dropped_bytes == len(whole) - head - tail
        mark = b"\n[nx8: %d bytes dropped here]\n" % stream.dropped_bytes
        assert kept == whole[:head] + mark + whole[len(whole) - tail :]


def printed(folder: Path, texts: dict[int, list[bytes]]) -> dict[int, int]:
    """Each rank is a process that prints its texts and ends; bytes dropped, by rank."""
    collector = output.Collector({rank: str(folder / f"rank{rank}") for rank in texts})
    children = []
    for rank, pieces in texts.items():
        pid = os.fork()
        if pid == 0:
            fd = output.open_for(collector.folder, rank, "stdout", str(folder / f"rank{rank}"))
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[os.write(fd, view) :]
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    return dict(collector.finish())


def test_every_byte_of_every_rank_arrives_in_order(tmp_path: Path) -> None:
    texts = {rank: [os.urandom(70_000) for _ in range(20)] for rank in range(3)}
    dropped = printed(tmp_path, texts)
    assert dropped == {0: 0, 1: 0, 2: 0}
    for rank, pieces in texts.items():
        assert (tmp_path / f"rank{rank}" / "stdout.log").read_bytes() == b"".join(pieces)
        assert (tmp_path / f"rank{rank}" / "stderr.log").read_bytes() == b""


def test_a_flood_keeps_both_ends_and_counts_the_rest(tmp_path: Path) -> None:
    piece, count = bytes(1 << 20), 200
    dropped = printed(tmp_path, {0: [b"first\n", *[piece] * count, b"last\n"], 1: [b"quiet"]})
    path = tmp_path / "rank0" / "stdout.log"
    due = len(b"first\n") + count * len(piece) + len(b"last\n") - output.HEAD_BYTES - output.TAIL_BYTES
    assert dropped == {0: due, 1: 0}
    data = path.read_bytes()
    assert data.startswith(b"first\n")
    assert data.endswith(b"last\n")
    assert b"[nx8: %d bytes dropped here]" % due in data
    assert len(data) < output.HEAD_BYTES + output.TAIL_BYTES + 100


def test_what_a_killed_rank_had_printed_is_kept(tmp_path: Path) -> None:
    collector = output.Collector({0: str(tmp_path / "rank0")})
    pid = os.fork()
    if pid == 0:
        fd = output.open_for(collector.folder, 0, "stderr", str(tmp_path / "rank0"))
        os.write(fd, b"last words\n")
        time.sleep(600)
        os._exit(0)
    path = tmp_path / "rank0" / "stderr.log"
    deadline = time.monotonic() + 120
    while path.read_bytes() != b"last words\n" and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    collector.finish()
    assert path.read_bytes() == b"last words\n"


def test_a_rank_whose_output_nobody_collects_writes_its_file_itself(tmp_path: Path) -> None:
    (tmp_path / "rank0").mkdir()
    for folder in (None, str(tmp_path / "gone")):
        fd = output.open_for(folder, 0, "stdout", str(tmp_path / "rank0"))
        os.write(fd, b"x")
        os.close(fd)
    assert (tmp_path / "rank0" / "stdout.log").read_bytes() == b"xx"
