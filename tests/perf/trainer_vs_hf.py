"""`make perf`: our trainer beside Hugging Face Trainer, both with DDP or both with DeepSpeed: the same
job, in turn, paired; and what `nx8 run` adds around it.

Two ratios are printed, each the median of the pairs' ratios with every pair beside it:

  steady tokens/s   ours ÷ theirs, by the clock between the end of the last warm-up step and the end of the
                    last step, logging included
  first step        ours ÷ theirs, seconds from starting the launcher to the end of the first optimizer step

Both sides write the same monotonic clock. Noise of the machine falls on both: read the spread.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.options import Options
from orchestrator.placing import Place
from orchestrator.plan import Identity, to_json
from orchestrator.planner import plan
from orchestrator.selection import select
from orchestrator.sources import prepared
from orchestrator.workspace import Workspace

ROOT = Path(__file__).parents[2]
LIMIT_S = 600
#: Name → ZeRO stage; ddp is torch's own on both sides.
MODES = {"ddp": 0, "zero2": 2, "zero3": 3}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--ranks", type=int, nargs="+", default=[2])
    options.add_argument("--modes", choices=MODES, nargs="+", default=["zero3"])
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--overhead", action=argparse.BooleanOptionalAction, default=True)
    said = options.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f},"
        f" Python {platform.python_version()}"
    )
    for ranks in said.ranks:
        for mode in said.modes:
            compare(ranks, mode, said.pairs, said.steps)
    if said.overhead:
        overhead()


def compare(ranks: int, mode: str, pairs: int, steps: int) -> None:
    rates, firsts, waits = [], [], []
    print(f"\n{mode} on {ranks} ranks, {pairs} pairs, {steps} measured steps")
    print("                               ours            theirs          ratio")
    for number in range(1, pairs + 1):
        # Alternating who goes first keeps a drift of the machine from favouring one side.
        order = (ours, theirs) if number % 2 else (theirs, ours)
        seen = {side.__name__: measured(side, ranks, mode, steps) for side in order}
        our_rate, our_first, waited = seen["ours"]
        their_rate, their_first, _ = seen["theirs"]
        waits.append(waited)
        rates.append(our_rate / their_rate)
        firsts.append(our_first / their_first)
        print(f"  pair {number}  steady tokens/s  {our_rate:12.0f}    {their_rate:12.0f}    {rates[-1]:8.3f}")
        print(f"          first step s     {our_first:12.2f}    {their_first:12.2f}    {firsts[-1]:8.3f}")
    print(
        f"  median steady tokens/s ratio {statistics.median(rates):.3f}"
        f"   (min {min(rates):.3f}, max {max(rates):.3f})"
    )
    print(
        f"  median first-step ratio      {statistics.median(firsts):.3f}"
        f"   (min {min(firsts):.3f}, max {max(firsts):.3f})"
    )
    print(f"  our wait for data, share of the step times: at most {max(waits):.3%}", flush=True)


def measured(side, ranks: int, mode: str, steps: int) -> tuple[float, float, float | None]:
    """(steady tokens/s over all ranks, seconds to the first finished step, share of waiting for data where it
    is told) of one run.
    """
    with tempfile.TemporaryDirectory(prefix="nx8-perf-") as folder:
        job, launch = planned_job(Path(folder), ranks, mode, steps)
        began = time.monotonic()
        ends_s, waited = side(Path(folder), job, launch)
        batch = job["batch"]
        warmup = job["steps"]["warmup_steps"]
        tokens = batch["global_batch_size"] * batch["sequence_length"] * (len(ends_s) - warmup)
        assert len(ends_s) == warmup + job["steps"]["measured_steps"], f"{side.__name__}: {len(ends_s)} steps"
        return tokens / (ends_s[-1] - ends_s[warmup - 1]), ends_s[0] - began, waited


def planned_job(folder: Path, ranks: int, mode: str, steps: int):
    workspace = Workspace(home=ROOT)
    chosen = select(workspace, cases=("llama2_7b",), vendor=None, cluster="local")
    chosen = dataclasses.replace(chosen, cluster=dataclasses.replace(chosen.cluster, devices_per_node=ranks))
    whole = plan(
        chosen,
        identity=Identity(
            run_id="perf", nonce=os.urandom(16).hex(), created_utc="", host_run_dir=str(folder)
        ),
        place=Place(
            python=sys.executable,
            trainer=workspace.trainer,
            data_dir=ROOT / "results" / "data",
            run_dir=folder,
        ),
        sources=prepared(chosen, ROOT / "results" / "data", write=True),
        options=Options(measured_steps=steps),
    )
    cell = whole.cells[0]
    job = json.loads(to_json(cell.job))
    job["engine"] = "ddp" if mode == "ddp" else "deepspeed"
    job["zero"]["stage"] = MODES[mode]
    (folder / "job.json").write_text(json.dumps(job))
    Path(cell.launches[0].host_output).mkdir(parents=True)
    (folder / "cells" / cell.cell_id / "job.json").write_text(json.dumps(job))
    return job, cell.launches[0]


def ours(folder: Path, job: dict, launch) -> tuple[list[float], float]:
    finish(launch.argv, launch.environment, folder, keep_stdin=True)
    records = (Path(launch.host_output) / "rank0" / "events.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, records) if record["event"] == "step"]
    waited_s = sum(step["data_wait_s"] for step in steps)
    return [step["end_s"] for step in steps], waited_s / sum(s["end_s"] - s["start_s"] for s in steps)


def theirs(folder: Path, job: dict, launch) -> tuple[list[float], None]:
    ranks = job["batch"]["world_size"]
    argv = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={ranks}",
        str(ROOT / "tests" / "perf" / "hf_peer.py"),
        str(folder / "job.json"),
        str(folder),
    )
    finish(argv, launch.environment, folder, keep_stdin=False)
    return json.loads((folder / "peer.json").read_text())["ends_s"], None


def finish(argv, environment: dict, folder: Path, *, keep_stdin: bool) -> None:
    """Runs to the end within the limit; an error shows the end of what was said."""
    log = folder / "said.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            argv,
            env={**os.environ, **environment},
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=folder,
            stdin=subprocess.PIPE if keep_stdin else subprocess.DEVNULL,
        )
        try:
            code = process.wait(LIMIT_S)
        finally:
            process.kill()
            process.wait()
    if code:
        sys.exit(f"{argv[:4]} exited {code}:\n{log.read_text(errors='replace')[-4000:]}")


def overhead() -> None:
    """What `nx8 run` itself costs, by phase, from one default run's own result."""
    nx8 = Path(sys.executable).with_name("nx8")
    done = subprocess.run(
        (nx8, "run", "llama2_7b", "--cluster", "local"),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=ROOT,
    )
    if done.returncode:
        sys.exit(f"nx8 run exited {done.returncode}:\n{done.stderr[-4000:]}")
    result = json.loads((Path(done.stdout.splitlines()[-1]) / "result.json").read_text())
    phases = "  ".join(f"{one['name']} {one['seconds']:.2f}" for one in result["phases"])
    print(f"\nnx8 run: orchestration {result['overhead_s']:.2f} s   ({phases})")


if __name__ == "__main__":
    main()
