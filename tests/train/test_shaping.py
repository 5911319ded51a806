"""What one line of YAML makes of a step's advantages, from the episodes' measures on."""

from __future__ import annotations

import functools
import math

import gymnasium as gym
import pytest
import torch

from aster_env.dialects import make_dialect
from aster_env.errors import UsageError
from aster_env.rollout import RolloutRunner
from aster_env.shaping import EarlyCall, early_call
from aster_env.tokenizers import ByteTokenizer
from aster_env.types import Task, Trajectory
from aster_train.shaping import SHAPINGS, Aspo, AspoInTheReward, Bigram, BigramClipped, read_shaping
from tests.support import EchoEnv, ScriptedPolicy

NAN = math.nan
near = functools.partial(pytest.approx, abs=1e-6)
CALL = '<tool_call>{"name": "python", "arguments": {"code": "1"}}</tool_call>'


def apply(shaping, rows, rewards, correct=None, size=None, scale=False):
    """Return the columns of ``apply``, as lists."""
    flat = torch.tensor(rewards)
    right = flat.nan_to_num(0.0) if correct is None else torch.tensor(correct)
    columns = shaping.apply(torch.tensor(rows), flat, right, size or len(rewards), scale)
    return [column.tolist() for column in columns]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"name": "aspo"}, Aspo(-2.0, 0.7)),
        ({"name": "aspo", "delta": -2.5, "k": 0.9}, Aspo(-2.5, 0.9)),
        ({"name": "bigram"}, Bigram(alpha=1.0, beta=1.0, gamma=0.5, scale=0.5, early_k=5.0)),
        ({"name": "bigram", "alpha": 0, "beta": 0, "gamma": 0}, Bigram(0, 0, 0)),
        ({"name": "bigram_clipped"}, BigramClipped(1.0, 1.0, 0.5, 0.5, 5.0, 0.7)),
        ({"name": "aspo_in_the_reward_collapses", "c": 2}, AspoInTheReward(-0.5, 2)),
    ],
)
def test_what_is_left_out_has_its_published_value(values, expected):
    assert read_shaping(values) == expected


def test_nothing_is_shaped_without_a_line():
    assert read_shaping(None) is None


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"name": "apso"}, "Did you mean 'aspo'"),
        ({"name": ["aspo"]}, "Allowed: 'aspo'"),
        ({"name": "aspo", "detla": -2.0}, "Did you mean 'delta'"),
        ({"name": "aspo", "alpha": 1.0}, "Allowed: 'delta', 'k'"),
        ({"name": "aspo", "delta": 2.0}, "delta=2.0 is not allowed. Allowed: a number below 0"),
        ({"name": "aspo", "delta": -math.inf}, "delta=-inf"),
        ({"name": "aspo", "delta": NAN}, "delta=nan"),
        ({"name": "aspo", "k": 1.0}, "no right episode's advantage changes sign"),
        ({"name": "aspo", "k": 0}, "between 0 and 1"),
        ({"name": "aspo", "k": True}, "k=True"),
        ({"name": "aspo", "k": "0.7"}, "k='0.7'"),
        ({"name": "bigram", "k": 5}, "Allowed: 'alpha', 'beta', 'early_k', 'gamma', 'scale'"),
        ({"name": "bigram", "alpha": -1}, "0 or more"),
        ({"name": "bigram", "scale": 0}, "above 0"),
        ({"name": "bigram", "early_k": 0}, "above 0"),
        ({"name": "bigram_clipped", "k": 1.5}, "between 0 and 1"),
        ({"name": "aspo_in_the_reward_collapses", "c": 0}, "c=0"),
        ({"delta": -2.0}, "with a 'name'"),
        ("aspo", "Fix: shaping: {name: aspo}"),
    ],
)
def test_what_is_not_allowed_is_named(values, says):
    with pytest.raises(UsageError, match=says):
        read_shaping(values)


def test_aspo_moves_right_episodes_with_a_call_by_its_own_table():
    rows = [[100.0, 1000.0], [300.0, 1000.0], [NAN, 500.0], [200.0, 800.0]]
    shaped, phi, plain = apply(Aspo(), rows, [1.0, 1.0, 1.0, 0.0])
    assert plain == near([0.25, 0.25, 0.25, -0.75])
    # -2·(100 - 200)/1000 = 0.2 is above 0.7·0.25 = 0.175.
    assert phi == near([0.175, -0.175, 0.0, 0.0])
    assert shaped == near([0.425, 0.075, 0.25, -0.75])
    assert apply(Aspo(-1.0, 0.9), rows, [1.0, 1.0, 1.0, 0.0])[1] == near([0.1, -0.1, 0.0, 0.0])


def test_the_bigram_version_is_raw_or_bounded_by_its_own_table():
    rows = [[1.0, NAN, 1.0, 0.5], [NAN, 1.0, 0.0, 1.0], [1.0, NAN, 1.0, 0.0], [NAN, NAN, NAN, NAN]]
    rewards = [1.0, 1.0, 0.0, 0.0]
    # φ = 1 + 0.5·0.5, -1 (of no mathematics), 1, and 0; λ = 0.5.
    shaped, phi, plain = apply(Bigram(), rows, rewards)
    assert plain == near([0.5, 0.5, -0.5, -0.5])
    assert phi == near([0.625, -0.5, 0.5, 0.0])
    assert shaped == near([1.125, 0.0, 0.0, -0.5])
    assert apply(BigramClipped(), rows, rewards)[1] == near([0.35, -0.35, 0.0, 0.0])
    assert apply(BigramClipped(scale=0.1), rows, rewards)[1] == near([0.125, -0.1, 0.0, 0.0])


def test_in_the_reward_a_position_turns_right_episodes_against_each_other():
    rows = [[100.0], [300.0]]
    shaped, phi, plain = apply(AspoInTheReward(c=0.5), rows, [1.0, 1.0])
    assert plain == near([0.0, 0.0])
    assert shaped == near([0.25, -0.25])
    assert phi == near([0.25, -0.25])
    # Scaled by its standard deviation, the smallest preference is as large as being right.
    scaled = apply(AspoInTheReward(delta=-0.05, c=0.5), rows, [1.0, 1.0], scale=True)[0]
    assert [abs(value) > 0.65 for value in scaled] == [True, True]
    assert apply(Aspo(), [[100.0, 400.0], [300.0, 400.0]], [1.0, 1.0])[0] == near([0.0, 0.0])


@pytest.mark.parametrize("name", sorted(SHAPINGS))
def test_an_episode_that_was_not_scored_gets_nothing_and_changes_nothing(name):
    shaping = read_shaping({"name": name})
    width = len(shaping.columns)
    rows = [[1.0, *[2.0] * (width - 1)], [3.0, *[5.0] * (width - 1)], [2.0, *[4.0] * (width - 1)]]
    without = shaping.apply(torch.tensor(rows), torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.0]), 3, True)
    for masked in ([NAN] * width, [7.0] * width):
        rewards, correct = torch.tensor([1.0, 1.0, 0.0, NAN]), torch.tensor([1.0, 1.0, 0.0, 1.0])
        columns = shaping.apply(torch.tensor([*rows, masked]), rewards, correct, 4, True)
        for column, before in zip(columns, without, strict=True):
            assert column[3] == 0
            assert torch.allclose(column[:3], before)


@pytest.mark.parametrize("name", sorted(SHAPINGS))
def test_what_was_added_is_the_difference_and_groups_do_not_mix(name):
    shaping = read_shaping({"name": name})
    rows = torch.rand(8, len(shaping.columns), generator=torch.Generator().manual_seed(0))
    rewards = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    shaped, phi, plain = shaping.apply(rows, rewards, rewards, 4, True)
    assert torch.allclose(plain + phi, shaped)
    assert phi.abs().sum() > 0
    alone = [shaping.apply(rows[part], rewards[part], rewards[part], 4, True)[0] for part in (slice(4), slice(4, 8))]
    assert torch.allclose(torch.cat(alone), shaped)


def test_right_is_what_the_caller_says_and_not_the_reward():
    rows = [[100.0, 1000.0], [300.0, 1000.0], [200.0, 1000.0]]
    phi = apply(Aspo(), rows, [1.1, 1.0, 0.9], correct=[1.0, 0.0, 0.0])[1]
    assert phi == near([0.0, 0.0, 0.0])
    assert apply(Aspo(), rows, [2.0, 2.0, 0.5], correct=[1.0, 1.0, 0.0])[1] == near([0.2, -0.2, 0.0])


class Echo(EchoEnv):
    def __init__(self, tasks=(), tokenizer=None, render_mode=None):
        super().__init__(tasks=tasks, tokenizer=tokenizer)


gym.register("EchoToShapeAdvantages-v0", entry_point=Echo, disable_env_checker=True)


@pytest.mark.parametrize("name", sorted(SHAPINGS))
def test_its_wrappers_measure_what_its_rows_hold(name):
    tasks = [Task("sum", "1 + 1?", ("2",)), Task("hop", "Who?", ("2",), kind="qa")]
    shaping = read_shaping({"name": name})
    options = {"max_concurrent": 1, "env_kwargs": {"tasks": tasks}, "wrappers": shaping.wrappers}
    with RolloutRunner("EchoToShapeAdvantages-v0", **options) as runner:
        policy = ScriptedPolicy(runner.envs[0], lambda _, turn: "\\boxed{2}" if turn else f"<think>ab</think>{CALL}")
        done = runner.run(policy, tasks)
    (psi,) = early_call(done[0], make_dialect("hermes", ByteTokenizer())).values()
    expected = {
        "first_call/tokens": 4.0,
        "length/tokens": done[0].shaping.get("length/tokens"),
        "ends/python>answer": 1.0,
        "bigram/python>think": NAN,
        "early_call": psi,
    }
    for trajectory, is_math in zip(done, (1.0, 0.0), strict=True):
        wanted = [{**expected, "is_math": is_math}[column] for column in shaping.columns]
        assert shaping.row(trajectory) == pytest.approx(wanted, nan_ok=True)
    assert len(shaping.row(Trajectory(tasks[0]))) == len(shaping.columns)


def test_how_fast_the_early_term_falls_reaches_what_measures_it():
    made = [wrapper(EchoEnv()) for wrapper in read_shaping({"name": "bigram", "early_k": 2}).wrappers]
    assert [env.k for env in made if isinstance(env, EarlyCall)] == [2]
