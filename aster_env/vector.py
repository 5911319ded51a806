"""ToolVectorEnv: n episodes side by side; their tools run concurrently."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from aster_env import loops
from aster_env.env import ToolEnv
from aster_env.errors import UsageError, check_name


class ToolVectorEnv(VectorEnv[Any, Any, Any]):
    """Steps every environment at once on one event loop, with Gymnasium's autoreset semantics.

    Observations and actions are tuples, one entry per environment, since lengths differ. Each entry of ``info`` is
    an object array with one value per environment, beside the usual boolean ``_name``.

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
        """
        if len(actions) != self.num_envs:
            raise UsageError(f"{len(actions)} actions were given for {self.num_envs} environments.")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            ended = np.flatnonzero(self._ended).tolist()
            raise UsageError(f"Environments {ended} have ended. Fix: reset them with options['reset_mask'].")
        steps = loops.run(_gather([self._play(i, actions[i]) for i in range(self.num_envs)]))
        observations, rewards, terminated, truncated, infos = zip(*steps, strict=True)
        self._observations = tuple(observations)
        self._ended = np.array(terminated) | np.array(truncated)
        return (
            self._observations,
            np.array(rewards, dtype=np.float64),
            np.array(terminated, dtype=np.bool_),
            np.array(truncated, dtype=np.bool_),
            self._infos(dict(enumerate(infos))),
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()

    async def _play(self, i: int, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        env = self.envs[i]
        if self._ended[i] and self.autoreset_mode is AutoresetMode.NEXT_STEP:
            observation, info = await env.areset()
            return observation, 0.0, False, False, info
        observation, reward, terminated, truncated, info = await env.astep(action)
        if (terminated or truncated) and self.autoreset_mode is AutoresetMode.SAME_STEP:
            final = {"final_obs": observation, "final_info": info}
            observation, info = await env.areset()
            info |= final
        return observation, reward, terminated, truncated, info

    def _infos(self, infos: dict[int, dict[str, Any]]) -> dict[str, Any]:
        joined: dict[str, Any] = {}
        for i, info in infos.items():
            for name, value in info.items():
                if name not in joined:
                    joined[name] = np.full(self.num_envs, None, dtype=object)
                    joined[f"_{name}"] = np.zeros(self.num_envs, dtype=np.bool_)
                joined[name][i] = value
                joined[f"_{name}"][i] = True
        return joined


async def _gather(coroutines: Sequence[Any]) -> list[Any]:
    return list(await asyncio.gather(*coroutines))
