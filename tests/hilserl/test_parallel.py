"""Several learner processes under torchrun are one learner: the weights of one process, in all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hilserl.parallel import ParallelError, Processes

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ["-m", "tests.fakes.parallel_run"]


def start(world: int, path: Path) -> list[dict[str, torch.Tensor]]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    command = [sys.executable, *(torchrun if world > 1 else []), *PROGRAM, str(path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [load_file(path.with_name(f"{path.name}.{rank}.safetensors")) for rank in range(world)]


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    (alone,) = start(1, tmp_path / "one")
    first, second = start(2, tmp_path / "two")
    assert first.keys() == second.keys() == alone.keys()
    for name, tensor in first.items():
        if name == "value_bound":  # a number for people: of the rewards each process has seen
            continue
        assert torch.equal(tensor, second[name]), f"{name} differs between the processes"
        torch.testing.assert_close(
            tensor, alone[name], rtol=2e-3, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ParallelError, match=r"policy\.batch_size 16 cannot be shared by 3 .* such as 15"):
        Processes("cpu", 16)
