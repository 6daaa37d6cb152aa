"""An archive's bytes on this machine: read once from where they are, taken by many, each at its own pace."""

from __future__ import annotations

import os
import threading
from typing import IO, TYPE_CHECKING, Protocol

from orchestrator.errors import BuildError, Nx8Error, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.images.archive import Parcel

PIECE_BYTES = 1 << 20
#: How long a reader that was told to stop may still be inside one read, in seconds.
STOP_LIMIT_S = 5.0


class Spool(Protocol):
    """Gives the bytes of a range as soon as they are here."""

    def pieces(self, start: int, end: int) -> Iterator[bytes]: ...


class Filled:
    """A file that is here as a whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            data = os.pread(self._file.fileno(), min(PIECE_BYTES, end - start), start)
            if not data:
                raise BuildError(Problem(code="E312", message=f"the archive here ends before byte {end}"))
            start += len(data)
            yield data


class Filling:
    """A file that a thread of its own fills in the order of its offsets, as `with` lasts.

    A file, and not a queue: a node that is slow, or comes back after its link was lost, keeps no other one
    waiting, and the source is still read once. `read(offset, longest)` gives bytes of the source.
    """

    def __init__(self, file: IO[bytes], wanted: Parcel, read: Callable[[int, int], bytes]) -> None:
        self._file = file
        self._wanted = wanted
        self._read = read
        self._here = 0
        self._error: BaseException | None = None
        self._stopped = False
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._fill, name="nx8-spool", daemon=True)

    def __enter__(self) -> Filling:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._moved:
            self._stopped = True
            self._moved.notify_all()
        self._thread.join(STOP_LIMIT_S)

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            here = min(end, self._await(start))
            for data in Filled(self._file).pieces(start, here):
                if self._stopped:
                    raise given_up()
                yield data
            start = here

    def _await(self, start: int) -> int:
        """The offset up to which bytes are here, once that is beyond `start`."""
        with self._moved:
            while self._here <= start:
                if self._error is not None:
                    raise self._error
                if self._stopped:
                    raise given_up()
                self._moved.wait()
            return self._here

    def _fill(self) -> None:
        try:
            for start, end in self._wanted.ranges:
                while start < end and not self._stopped:
                    data = self._read(start, min(PIECE_BYTES, end - start))
                    os.pwrite(self._file.fileno(), data, start)
                    start += len(data)  # noqa: PLW2901 - how far it has come
                    self._move(start)
        except Nx8Error as error:
            # The source's lost link is no lost link of whoever waits for its bytes.
            self._fail(BuildError(error.problems))
        except OSError as error:
            message = f"the archive could not be kept here on its way: {error.strerror or error}"
            self._fail(BuildError(Problem(code="E312", message=message, help="is this machine's disk full?")))
        except BaseException as error:  # noqa: BLE001 - a bug, raised where the bytes are awaited
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._moved:
            self._error = error
            self._moved.notify_all()

    def _move(self, here: int) -> None:
        with self._moved:
            self._here = here
            self._moved.notify_all()


def given_up() -> BuildError:
    return BuildError(Problem(code="E312", message="handing on the image was given up"))
