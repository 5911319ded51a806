"""Episodes side by side: one fails alone, and info has Gymnasium's form."""

from __future__ import annotations

import numpy as np
import pytest

from aster_env.errors import UsageError
from aster_env.types import StopReason
from aster_env.vector import ToolVectorEnv
from tests.support import EchoEnv

CALL = '<tool_call>\n{"name": "python", "arguments": {"code": "1"}}\n</tool_call>'
ANSWER = "\\boxed{2}"


def vector(respond=str, mode="NextStep", count=2):
    envs = ToolVectorEnv(lambda: EchoEnv(respond, view="text"), count, mode)
    envs.reset(options={"task_id": "t1"})
    return envs


@pytest.mark.parametrize("bad", [3, None, [10**6]])
def test_a_bad_action_steps_no_environment(bad):
    envs = vector()
    with pytest.raises(UsageError, match="action"):
        envs.step([CALL, bad])
    assert envs.step([CALL, CALL])[4]["tool_calls"].tolist() == [1, 1]
    envs.close()


def test_the_action_of_an_episode_that_ended_is_ignored():
    envs = vector()
    assert envs.step([ANSWER, CALL])[1].tolist() == [1.0, 0.0]
    observations, _, terminated, _, info = envs.step([None, CALL])
    assert not terminated.any()
    assert "What is" in observations[0]
    assert info["tool_calls"].tolist() == [0, 2]
    envs.close()


def test_an_error_is_raised_when_every_other_turn_has_ended():
    def respond(code):
        if code == "bug":
            raise ZeroDivisionError
        ended.append(code)
        return 0.2

    ended = []
    envs = vector(respond, count=3)
    with pytest.raises(ZeroDivisionError):
        envs.step([CALL.replace('"1"', '"bug"'), CALL, ANSWER])
    assert ended == ["1"]
    assert [env._episode.trajectory.stop for env in envs.envs] == [None, None, StopReason.ANSWERED]
    assert len(envs.envs[1]._episode.trajectory.turns) == 3
    assert envs.step([CALL] * 3)[4]["tool_calls"].tolist() == [2, 2, 0]
    envs.close()


def test_infos_are_nested_arrays_with_masks_as_gymnasium_nests_them():
    envs = vector(mode="SameStep")
    info = envs.step([ANSWER, CALL])[4]
    final = info["final_info"]
    assert info["_final_info"].tolist() == final["_stop"].tolist() == [True, False]
    assert final["stop"][0] is StopReason.ANSWERED
    assert final["reward_terms"]["correct"].tolist() == [1.0, 0.0]
    assert final["reward_terms"]["_correct"].tolist() == [True, False]
    assert final["trajectory"][0].reward == 1.0
    assert info["final_obs"].tolist() == ["", None]
    assert (info["tool_calls"].dtype, info["tool_calls"].tolist()) == (np.dtype(int), [0, 1])
    # Masks of turns have different lengths, and stay arrays.
    assert [mask.dtype for mask in info["mask"]] == [np.int8, np.int8]
    envs.close()
