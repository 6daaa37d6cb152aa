"""What every test may rely on: no environment of the person who runs it, and a home folder of its own where
one is asked for.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_configure() -> None:
    """A shell that starts the tests in the background has these ignored, and every child would inherit it."""
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of the person's own settings reaches a test."""
    for name in (
        "NX8_HOME",
        "NX8_LANG",
        "CI",
        "NO_COLOR",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp()))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A copy of the noun folders, to be changed and run in."""
    folder = tmp_path / "home"
    for noun in ("cases", "dockerfiles", "cluster"):
        shutil.copytree(ROOT / noun, folder / noun, ignore=shutil.ignore_patterns("__pycache__"))
    return folder
