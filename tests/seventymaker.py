"""Plans of llama2_70b as its published document has it, on four nodes that nobody reaches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from orchestrator.cases import Case
from orchestrator.cluster import Cluster, Node, Site
from orchestrator.configs import DeviceConfig
from orchestrator.data import Index, Manifest
from orchestrator.load import load
from orchestrator.options import Options
from orchestrator.placing import Place
from orchestrator.plan import Identity, Plan
from orchestrator.planner import Sources, plan
from orchestrator.render import context
from orchestrator.selection import Chosen, Selection
from orchestrator.vendors import Vendor
from orchestrator.workspace import Workspace

ROOT = Path(__file__).parents[1]
CASE = ROOT / "cases" / "llama2_70b"
ROWS = ("1-fp32", "2-amp-tp8pp4", "3-amp-tp4pp8", "4-amp-tp4pp8-gas1024")


def case(**changes: Any) -> Case:
    return dataclasses.replace(load(CASE / "case.yaml", Case), **changes)


def config(label: str) -> DeviceConfig:
    return load(CASE / "configs" / f"H800x4x8-{label}.yaml", DeviceConfig)


def nvidia(**changes: Any) -> Vendor:
    return dataclasses.replace(load(ROOT / "dockerfiles" / "nvidia" / "vendor.yaml", Vendor), **changes)


def selection(*chosen: Chosen, nodes: int = 4, vendor: Vendor | None = None, **changes: Any) -> Selection:
    made = Cluster(
        schema=1,
        description="four nodes",
        vendor="nvidia",
        device="H800",
        transport="ssh",
        devices_per_node=8,
        nodes=tuple(Node(name=f"node-{n}", fabric_address=f"192.0.2.{n + 1}") for n in range(nodes)),
        data_dir="/data",
        work_dir="/var/nx8",
        interface="ib0",
    )
    return Selection(
        cluster_name="four",
        cluster=dataclasses.replace(made, **changes),
        vendor_name="nvidia",
        vendor=vendor or nvidia(),
        cases=chosen or tuple(row(label) for label in ROWS),
    )


def row(label: str, **changes: Any) -> Chosen:
    return Chosen(
        name="llama2_70b",
        case=case(**changes),
        config=config(label),
        label=label,
        config_name=f"H800x4x8-{label}",
    )


def manifest(name: str = "llama_00_text_document", *, tokenizer: str = "sentencepiece") -> Manifest:
    return Manifest(
        schema=1,
        name=name,
        sha256="5" * 64,
        num_tokens=5_000_000_001,
        dtype="uint16",
        tokenizer=tokenizer,
        tokenizer_sha256="7" * 64,
        vocab_size=257 if tokenizer == "bytes" else 32000,
        num_inputs=1,
        input_bytes=1,
        inputs_sha256="1" * 64,
        truncated=False,
        inputs=(),
        index=Index(sha256="6" * 64, num_sequences=9, num_documents=9),
    )


def planned(chosen: Selection, options: Options | None = None, *, made: Manifest | None = None) -> Plan:
    proxy = manifest("python-library-document", tokenizer="bytes")
    contexts = {
        engine: context(
            Workspace(home=ROOT),
            "nvidia",
            chosen.vendor,
            engine=engine,
            site=Site(),
            rehearsal=chosen.cluster.rehearsal,
        )
        for engine in ("megatron", "native")
    }
    return plan(
        chosen,
        identity=Identity(
            run_id="r", nonce="0" * 32, created_utc="2026-01-01T00:00:00+00:00", host_run_dir="/runs/r"
        ),
        place=Place(
            python="python3",
            trainer=Path("/trainer"),
            data_dir=Path("/here/data"),
            run_dir=Path("/runs/r"),
            master_port=20000,
        ),
        sources=Sources(data={"llama_00_text_document": made or manifest(), proxy.name: proxy}),
        options=options or Options(),
        contexts=contexts,
    )
