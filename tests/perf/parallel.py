"""`make perf`: our tensor, pipeline and data parallelism beside torch's own (parallelize_module, pipelining,
fully_shard) at 2 × 2 × 2 on this machine's CPU: the same model, data and seed, in turn, paired.

  first step   ours ÷ theirs, seconds from starting the launcher to the end of the first optimizer step
  step time    ours ÷ theirs, from the end of the last warm-up step to the end of the last one, per step

Both import once and fork their ranks, both write the same monotonic clock, and a pair whose losses or
gradient norms differ is no pair. The optimizer's state is sharded on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT_S = 600
#: Relative; both compute in float32.
TOLERANCE = 1e-3


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--steps", type=int, default=20)
    said = options.parse_args()
    print(
        f"\nTP2 PP2 DP2, 8 ranks, {said.pairs} pairs, {said.steps} measured steps: {platform.machine()},"
        f" {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    )
    print("                             ours          theirs        ratio")
    firsts, times = [], []
    for number in range(1, said.pairs + 1):
        # Alternating who goes first keeps a drift of the machine from favouring one side.
        order = (ours, theirs) if number % 2 else (theirs, ours)
        seen = {side.__name__: measured(side, said.steps) for side in order}
        our, their = seen["ours"], seen["theirs"]
        for name in ("losses", "norms"):
            pairs = zip(our[name], their[name], strict=True)
            worst = max(abs(a / b - 1) for a, b in pairs)
            assert worst < TOLERANCE, f"{name} differ by {worst:.1e}: not the same training"
        firsts.append(our["first_s"] / their["first_s"])
        times.append(our["step_s"] / their["step_s"])
        print(
            f"  pair {number}  first step s  {our['first_s']:10.2f}    {their['first_s']:10.2f}"
            f"    {firsts[-1]:8.3f}"
        )
        print(
            f"          step time s   {our['step_s']:10.4f}    {their['step_s']:10.4f}    {times[-1]:8.3f}",
            flush=True,
        )
    for name, ratios in (("first-step", firsts), ("step-time", times)):
        print(
            f"  median {name} ratio {statistics.median(ratios):.3f}"
            f"   (min {min(ratios):.3f}, max {max(ratios):.3f})"
        )


def measured(side, steps: int) -> dict:
    with tempfile.TemporaryDirectory(prefix="nx8-perf-") as name:
        folder = Path(name)
        job = make_job(folder, steps)
        began = time.monotonic()
        told = side(folder)
        warmup, ends_s = job["steps"]["warmup_steps"], told["ends_s"]
        assert len(ends_s) == warmup + steps, f"{side.__name__}: {len(ends_s)} steps"
        return {
            **told,
            "first_s": ends_s[0] - began,
            "step_s": (ends_s[-1] - ends_s[warmup - 1]) / (len(ends_s) - warmup),
        }


def ours(folder: Path) -> dict:
    launcher = ROOT / "cases" / "trainer" / "launch.py"
    argv = [launcher, "--job", folder / "job.json", "--output", folder / "node0", "--launcher", "fork"]
    argv += ["--node-rank", 0, "--num-nodes", 1, "--master-addr", "127.0.0.1", "--master-port", 0]
    finish([sys.executable, *map(str, argv), "--local-world-size", "8"], folder)
    told: dict[str, list] = {"ends_s": [], "losses": [], "norms": []}
    for line in (folder / "node0" / "rank0" / "events.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["event"] == "step":
            told["ends_s"].append(record["end_s"])
            told["losses"].append(record["loss"])
            told["norms"].append(record["grad_norm"])
    return told


def theirs(folder: Path) -> dict:
    peer = ROOT / "tests" / "perf" / "torch_peer.py"
    finish([sys.executable, str(peer), str(folder / "job.json"), str(folder)], folder)
    return json.loads((folder / "peer.json").read_text())


def finish(argv: list[str], folder: Path) -> None:
    """Runs to the end within the limit; an error shows the end of what was said."""
    log = folder / "said.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            argv,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=folder,
            stdin=subprocess.PIPE,
        )
        try:
            code = process.wait(LIMIT_S)
        finally:
            process.kill()
            process.wait()
    if code:
        logs = [log, *folder.glob("node0/rank0/stderr.log")]
        sys.exit(
            f"{argv[1]} exited {code}:\n" + "\n".join(p.read_text(errors="replace")[-3000:] for p in logs)
        )


def make_job(folder: Path, steps: int) -> dict:
    """The small job of the trainer's tests, larger, on the text of the trainer itself."""
    from tests.trainer.conftest import Bench

    job = Bench(folder).job(
        engine="native",
        model__hidden_size=128,
        model__num_layers=4,
        model__num_heads=8,
        model__num_kv_heads=4,
        model__ffn_hidden_size=352,
        batch__sequence_length=128,
        batch__world_size=8,
        batch__micro_batch_size=1,
        batch__gradient_accumulation_steps=4,
        steps__warmup_steps=3,
        steps__measured_steps=steps,
        parallel={
            "tensor_parallel_size": 2,
            "pipeline_parallel_size": 2,
            "virtual_pipeline_size": 1,
            "pipeline_layers": None,
            "sequence_parallel": False,
            "shard_optimizer": True,
            "overlap": True,
        },
    )
    (folder / "job.json").write_text(json.dumps(job))
    return job


if __name__ == "__main__":
    main()
