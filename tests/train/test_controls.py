"""The controls of the demo: pools that the environment takes, without the property that is claimed to matter."""

from __future__ import annotations

import asyncio

import pytest

from aster_env.kernels import open_pool
from aster_env.rollout import RolloutRunner
from aster_train.tiny.controls import ForgetfulPool, InertPool


@pytest.mark.parametrize("pool", [InertPool(), ForgetfulPool(InertPool())], ids=["inert", "forgetful"])
def test_the_environment_takes_a_control_for_its_pool(pool):
    with RolloutRunner("ASTER/PythonMath-v0", max_concurrent=2, env_kwargs={"pool": pool}) as runner:
        assert len(runner.envs) == 2


def test_a_forgetful_session_runs_each_cell_and_keeps_nothing():
    async def main():
        async with ForgetfulPool(open_pool(spares=0)) as pool:
            kernel = await pool.start()
            return [await kernel.execute(code) for code in ("x = 6 * 7\nx", "x")]

    first, second = asyncio.run(main())
    assert first.value == "42"
    assert "NameError" in (second.error or "")


def test_an_inert_session_runs_nothing():
    async def main():
        async with InertPool() as pool:
            return await (await pool.start()).execute("1 / 0")

    cell = asyncio.run(main())
    assert (cell.value, cell.error, cell.stdout) == (None, None, "")
