"""What happens on one process of a training run, as the others see it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aster_env.types import Trajectory
from aster_train.recipe import Recipe

ROOT = Path(__file__).parents[2]


def test_a_failure_on_one_process_masks_and_one_on_all_stops_all(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders, processes = [tmp_path / "0", tmp_path / "1"], []
    try:
        for rank, folder in enumerate(folders):
            folder.mkdir()
            world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
            env = {**os.environ, **{k: str(v) for k, v in world.items()}, "MASTER_ADDR": "127.0.0.1"}
            command = [sys.executable, "-m", "tests.train.two_processes", str(folder)]
            processes.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
            )
        for process in processes:
            output = process.communicate(timeout=150)[0]
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    first, second = (json.loads((folder / "said.json").read_text()) for folder in folders)
    assert first["one"] > 0
    assert second["one"] == 0
    assert first["both"] == second["both"]
    assert "Not one of 16 episodes could be played" in first["both"]
    assert first["masked"] == second["masked"] == [8.0]
    assert not set(first["one seeds"]) & set(second["one seeds"])
    for rank, folder in enumerate(folders):
        names = [path.name for path in (folder / "out" / "trajectories").iterdir()]
        assert names == [f"train-000000-rank{rank}.jsonl"]
    shares = [
        folder / "shaped" / "out" / "trajectories" / f"train-000000-rank{n}.jsonl" for n, folder in enumerate(folders)
    ]
    rows = [json.loads(line) for share in shares for line in share.read_text().splitlines()]
    assert len({row["task"]["id"] for row in rows}) == 1
    assert [row["advantage"] for row in rows] == pytest.approx(first["shaped"] + second["shaped"], abs=1e-6)
    # The same, of all rows at once: the group lies on both processes.
    recipe = Recipe.read(shaping={"name": "aspo"})
    episodes = [Trajectory.from_json(row) for row in rows]
    together = recipe.advantages(torch.tensor(recipe.rows(episodes), dtype=torch.float64), 8, scale=True)
    assert [row["phi"] for row in rows] == pytest.approx(together.phi.tolist(), abs=1e-9)
    assert any(row["phi"] for row in rows[:4])
    assert any(row["phi"] for row in rows[4:])
