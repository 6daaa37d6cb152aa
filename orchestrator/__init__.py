"""Nx8: container-orchestrated training benchmarks for accelerator clusters. No proof, no number."""

__version__ = "0.1.0"
