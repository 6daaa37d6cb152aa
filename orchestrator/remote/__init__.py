"""Nodes over SSH: the only home of fabric and paramiko; their errors become ours (errors.ours)."""

from __future__ import annotations

from orchestrator.remote.errors import LinkLost, OverTime, Refused, RemoteError
from orchestrator.remote.pool import Pool
from orchestrator.remote.remote import Completed, Locked, Piece, Remote, Spawned

__all__ = [
    "Completed",
    "LinkLost",
    "Locked",
    "OverTime",
    "Piece",
    "Pool",
    "Refused",
    "Remote",
    "RemoteError",
    "Spawned",
]
