"""ASTER/PythonMath-v0: mathematics with a persistent Python session."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from aster_env.env import ToolEnv
from aster_env.errors import UnsandboxedWarning
from aster_env.kernels.base import KernelPool
from aster_env.kernels.shared import lease_pool, release_pool
from aster_env.limits import Limits
from aster_env.rewards.math import MathReward
from aster_env.tasks import TaskSet, load_tasks
from aster_env.tools.base import Tool
from aster_env.tools.python import PythonTool
from aster_env.vector import ToolVectorEnv

from .tasks import GENERATORS

INSTRUCTION = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."


class PythonMathEnv(ToolEnv):
    """Problems of mathematics; the tool ``python`` runs code in a session that lives as long as the episode.

    Args:
        tasks: a TaskSet, a list of Tasks, a generated family (``"generated"``), a preset (``"aime25"``, …) or a path;
            see ``aster_env.tasks.load_tasks``.
        split: which split of the tasks.
        tasks_path: a local file for a preset, instead of the hub.
        task_options: of a generated family: ``level``, ``size``, ``seed``.
        max_tool_calls: calls an episode may make.
        max_tokens: tokens an episode may have, prompt and observations included.
        max_invalid_calls: calls in a row that cannot be executed.
        timeout: seconds a call may take.
        max_output: characters of a call's output that the model is shown; the middle is cut out.
        pool: where sessions come from: a KernelPool, or a name for ``aster_env.kernels.open_pool``.
        pool_options: passed to ``open_pool``.
        allow_unsandboxed: True says that code may run without isolation, and silences the warning.
        instruction: appended to each problem.
        **options: see ``ToolEnv``: ``tokenizer``, ``dialect``, ``system``, ``view``, ``render_mode``.
    """

    def __init__(
        self,
        *,
        tasks: Any = "generated",
        split: str | None = None,
        tasks_path: str | None = None,
        task_options: Mapping[str, Any] | None = None,
        max_tool_calls: int = 50,
        max_tokens: int = 32768,
        max_invalid_calls: int = 3,
        timeout: float = 30.0,
        max_output: int = 8192,
        pool: str | KernelPool = "ipykernel",
        pool_options: Mapping[str, Any] | None = None,
        allow_unsandboxed: bool | None = None,
        instruction: str = INSTRUCTION,
        **options: Any,
    ) -> None:
        loaded: TaskSet = load_tasks(
            tasks, path=tasks_path, split=split, kind="math", generators=GENERATORS, options=task_options
        )
        super().__init__(
            loaded,
            MathReward(),
            instruction=instruction,
            limits=Limits(max_tool_calls, max_tokens, max_invalid_calls),
            **options,
        )
        self._pool_choice, self._pool_options = pool, dict(pool_options or {})
        self._timeout, self._max_output = timeout, max_output
        self._leased: KernelPool | None = None
        if pool == "ipykernel":
            self._pool_options["allow_unsandboxed"] = True
            if allow_unsandboxed is None:
                warn_unsandboxed()

    async def open_tools(self) -> Sequence[Tool]:
        """Return the Python tool over the pool shared by the environments of this loop."""
        pool = self._pool_choice
        if isinstance(pool, str):
            pool = self._leased = lease_pool(pool, **self._pool_options)
        return [PythonTool(pool, timeout=self._timeout, max_output=self._max_output)]

    async def close_tools(self) -> None:
        """Give the shared pool back."""
        leased, self._leased = self._leased, None
        if leased is not None:
            await release_pool(leased)


def make_vec(num_envs: int = 1, autoreset_mode: Any = "NextStep", **kwargs: Any) -> ToolVectorEnv:
    """Return ``num_envs`` of these environments as one; called by ``gymnasium.make_vec``."""
    return ToolVectorEnv(lambda: PythonMathEnv(**kwargs), num_envs, autoreset_mode)


def warn_unsandboxed() -> None:
    """Warn, once a process, that code runs without isolation."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            "The code of this environment's model runs as your user, with your files and network: the kernel pool "
            "'ipykernel' does not isolate. Pass allow_unsandboxed=True to say that this is meant.",
            UnsandboxedWarning,
            stacklevel=4,
        )


_warned = False
