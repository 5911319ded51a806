"""ToolVectorEnv: n episodes side by side; their tools run concurrently."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from aster_env import loops
from aster_env.env import ToolEnv
from aster_env.errors import UsageError, check_name
from aster_env.tasks import share_tasks


class ToolVectorEnv(VectorEnv[Any, Any, Any]):
    """Steps every environment at once on one event loop, with Gymnasium's autoreset semantics.

    Observations and actions are tuples, one entry per environment, since lengths differ. ``info`` has Gymnasium's
    form: an array with one value per environment under each name, beside the boolean ``_name``, and again such a
    dictionary where the value is one (``final_info``, ``reward_terms``); arrays, whose lengths differ, are objects.

    Args:
        make: makes one environment.
        num_envs: how many.
        autoreset_mode: ``NextStep`` (the step after an episode's end resets, its action is ignored), ``SameStep``
            (the last step resets; the end is in ``final_obs`` and ``final_info``) or ``Disabled``.

    Raises:
        UsageError: an argument is not allowed.
    """

    def __init__(
        self, make: Callable[[], ToolEnv], num_envs: int = 1, autoreset_mode: str | AutoresetMode = "NextStep"
    ) -> None:
        if num_envs < 1:
            raise UsageError(f"num_envs={num_envs} is not allowed. Allowed: at least 1.")
        if isinstance(autoreset_mode, str):
            autoreset_mode = AutoresetMode(
                check_name("autoreset mode", autoreset_mode, [m.value for m in AutoresetMode])
            )
        self.num_envs, self.autoreset_mode = num_envs, autoreset_mode
        self.envs = [make() for _ in range(num_envs)]
        self.metadata = {**self.envs[0].metadata, "autoreset_mode": autoreset_mode}
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = gym.spaces.Tuple([env.observation_space for env in self.envs])
        self.action_space = gym.spaces.Tuple([env.action_space for env in self.envs])
        self._ended = np.zeros(num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Reset all environments, or those of ``options["reset_mask"]``.

        Args:
            seed: one seed (environment i gets ``seed + i``), or one for each.
            options: passed to each environment; ``reset_mask`` (bool array) chooses which.
        """
        options = dict(options or {})
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, dtype=np.bool_)))
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise UsageError(f"options['reset_mask'] must be a bool array of shape ({self.num_envs},).")
        if seed is None or isinstance(seed, int | np.integer):
            seeds: list[int | None] = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise UsageError(f"{len(seeds)} seeds were given for {self.num_envs} environments.")
        if not mask.all() and not hasattr(self, "_observations"):
            raise UsageError("The first reset() must reset every environment. Fix: leave out 'reset_mask'.")

        async def reset(i: int) -> tuple[Any, dict[str, Any]]:
            return await self.envs[i].areset(seed=seeds[i], options=options)

        chosen = [int(i) for i in np.flatnonzero(mask)]
        done = loops.run(_gather([reset(i) for i in chosen]))
        observations = list(getattr(self, "_observations", [None] * self.num_envs))
        for i, (observation, _) in zip(chosen, done, strict=True):
            observations[i] = observation
        self._observations = tuple(observations)
        self._ended[mask] = False
        return self._observations, self._infos({i: info for i, (_, info) in zip(chosen, done, strict=True)})

    def step(self, actions: Sequence[Any]) -> tuple[tuple[Any, ...], Any, Any, Any, dict[str, Any]]:
        """Play one turn in every environment.

        Returns:
            Observations (tuple), rewards (float64), terminated and truncated (bool), all of length ``num_envs``,
            and ``info``.

        Raises:
            UsageError: an action is not in the action space (no environment is stepped then), or environments have
                ended and were not reset. An error of one environment is raised when all have ended their turns.
        """
        if len(actions) != self.num_envs:
            raise UsageError(f"{len(actions)} actions were given for {self.num_envs} environments.")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            ended = np.flatnonzero(self._ended).tolist()
            raise UsageError(f"Environments {ended} have ended. Fix: reset them with options['reset_mask'].")
        for i in np.flatnonzero(~self._resets()):
            self.envs[i].check_action(actions[i])
        steps = loops.run(_gather([self._play(i, actions[i]) for i in range(self.num_envs)]))
        observations, rewards, terminated, truncated, infos = zip(*steps, strict=True)
        self._observations = tuple(observations)
        return (
            self._observations,
            np.array(rewards, dtype=np.float64),
            np.array(terminated, dtype=np.bool_),
            np.array(truncated, dtype=np.bool_),
            self._infos(dict(enumerate(infos))),
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        with contextlib.ExitStack() as ending:
            for env in self.envs:
                ending.callback(env.close)

    def _resets(self) -> Any:
        """Say which environments the next step resets, their actions ignored."""
        return self._ended & (self.autoreset_mode is AutoresetMode.NEXT_STEP)

    async def _play(self, i: int, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        env = self.envs[i]
        if self._resets()[i]:
            observation, info = await env.areset()
            self._ended[i] = False
            return observation, 0.0, False, False, info
        observation, reward, terminated, truncated, info = await env.astep(action)
        self._ended[i] = terminated or truncated
        if (terminated or truncated) and self.autoreset_mode is AutoresetMode.SAME_STEP:
            final = {"final_obs": observation, "final_info": info}
            observation, info = await env.areset()
            info |= final
        return observation, reward, terminated, truncated, info

    def _infos(self, infos: dict[int, dict[str, Any]]) -> dict[str, Any]:
        joined: dict[str, Any] = {}
        for i, info in infos.items():
            joined = self._add_info(joined, info, i)
        return joined

    def _add_info(self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int) -> dict[str, Any]:
        """Add one environment's ``info``; see Gymnasium's, which would join arrays as if all had one length."""
        for name, value in env_info.items():
            if isinstance(value, np.ndarray):
                column = vector_infos.setdefault(name, np.full(self.num_envs, None, dtype=object))
                column[env_num] = value
                vector_infos.setdefault(f"_{name}", np.zeros(self.num_envs, dtype=np.bool_))[env_num] = True
            else:
                super()._add_info(vector_infos, {name: value}, env_num)
        return vector_infos


async def _gather(coroutines: Sequence[Any]) -> list[Any]:
    """Await all, and only then raise the first error: none is left to go on alone."""
    done = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return list(done)


def make_vector_env(
    env: Callable[..., ToolEnv], num_envs: int, autoreset_mode: Any, arguments: Mapping[str, Any]
) -> ToolVectorEnv:
    """Return ``num_envs`` environments as one; the tasks are read or generated once, and shared.

    Args:
        env: makes one from ``arguments``.
        num_envs: how many.
        autoreset_mode: Gymnasium's.
        arguments: of each environment.

    Raises:
        UsageError: an argument is not allowed.
    """
    made: list[ToolEnv] = []

    def make() -> ToolEnv:
        made.append(env(**(share_tasks(arguments, made[0].tasks) if made else arguments)))
        return made[-1]

    return ToolVectorEnv(make, num_envs, autoreset_mode)
