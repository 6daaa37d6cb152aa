"""What a tensor group sums keeps the precision that it came with, whatever the weights are in."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.trainer, pytest.mark.timeout(300)]

#: One of two ranks. What it finds is printed as JSON by rank 0.
RANK = """
import datetime, json, sys
from types import SimpleNamespace

rank, store, dtype, known, trainer = int(sys.argv[1]), *sys.argv[2:]
sys.path.insert(0, trainer)
import groups as module
import torch
import torch.distributed as dist
from grid import Grid

deadline = datetime.timedelta(seconds=120)
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2, timeout=deadline)
if known == "unknown":  # a backend that cannot sum the compute dtype
    module.summable = lambda *_: torch.float32
host = SimpleNamespace(is_host=True, device=torch.device("cpu"))
groups = module.Groups(Grid(tensor=2, data=1, pipeline=1), host, getattr(torch, dtype))

exact = torch.tensor([1234.567, 9.87654, 1e30]) if rank == 0 else torch.zeros(3)
low = torch.tensor([1.0, 2.0 ** -6], dtype=getattr(torch, dtype))
groups.sum_tensor(low, "forward")
found = {"exact": groups.sum_tensor(exact, "gradient").tolist(), "low": low.tolist(), "kept": str(low.dtype)}

torch.manual_seed(1)
whole, labels = 30 * torch.randn(50, 64), torch.randint(0, 64, (50,))
truth = whole.clone().requires_grad_()
loss = torch.nn.functional.cross_entropy(truth, labels)
loss.backward()
mine = whole[:, 32 * rank : 32 * (rank + 1)].clone().requires_grad_()
ours = module.CrossEntropy.apply(mine + 0, labels, 32 * rank, groups)
ours.backward()
far = (mine.grad - truth.grad[:, 32 * rank : 32 * (rank + 1)]).abs().max()
found.update(loss=abs(float((ours / loss).detach()) - 1), gradient=float(far / truth.grad.abs().max()))
if rank == 0:
    print(json.dumps(found))
dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("dtype", "known"), [("bfloat16", "known"), ("bfloat16", "unknown"), ("float16", "known")]
)
def test_float32_is_summed_as_float32_beside_weights_of_half_precision(tools, tmp_path, dtype, known):
    argv = [str(tmp_path / "store"), dtype, known, str(tools.trainer)]
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), *argv], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    try:
        said = [rank.communicate(timeout=150)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0]
    found = json.loads(said[0].splitlines()[-1])
    assert found["exact"] == pytest.approx([1234.567, 9.87654, 1e30], rel=1e-7)
    assert (found["low"], found["kept"]) == ([2.0, 2.0**-5], f"torch.{dtype}")
    assert found["loss"] < 1e-6
    assert found["gradient"] < 1e-6
