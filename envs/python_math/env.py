"""ASTER/PythonMath-v0: mathematics with a persistent Python session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aster_env.env import ToolEnv
from aster_env.kernels.base import KernelPool
from aster_env.kernels.shared import lease_pool, read_pool, release_pool
from aster_env.limits import Limits
from aster_env.presets import Fields
from aster_env.rewards.base import Reward
from aster_env.rewards.choose import check_require_tool, choose_reward, refuse_untried
from aster_env.rewards.math import MathReward
from aster_env.rewards.toolstar import ToolStarReward
from aster_env.tasks import TaskSet, load_tasks
from aster_env.tools.base import Tool
from aster_env.tools.python import PythonTool, check_call_limits
from aster_env.types import Trajectory
from aster_env.vector import ToolVectorEnv, make_vector_env

from .tasks import GENERATORS

REWARDS = {"math": MathReward, "toolstar": ToolStarReward}
"""What scores an episode, by name."""
INSTRUCTION = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."


class PythonMathEnv(ToolEnv):
    """Problems of mathematics; the tool ``python`` runs code in a session that lives as long as the episode.

    Args:
        tasks: a TaskSet, a list of Tasks, a generated family (``"generated"``), a preset (``"aime25"``, …) or a path;
            see ``aster_env.tasks.load_tasks``.
        split: which split of a generated family, a preset or a hub dataset.
        tasks_path: a local file for a preset, instead of the hub.
        fields: where a task's parts are in a row of a file or hub dataset: ``{"prompt": column, "answers": column}``.
        task_options: of a generated family: ``level``, ``size``, ``seed``.
        max_tool_calls: calls an episode may make.
        max_tokens: tokens an episode may have, prompt and observations included.
        max_invalid_calls: calls in a row that cannot be executed.
        timeout: seconds a call may take.
        max_output: characters of a call's output that the model is shown; the middle is cut out.
        pool: where sessions come from: a KernelPool, or a name for ``aster_env.kernels.open_pool``.
        pool_options: passed to ``open_pool``.
        allow_unsandboxed: whether code may run without isolation. The pool ``"zygote"`` then also starts where
            Landlock or seccomp is missing, and ``"ipykernel"``, which never isolates, needs it; for the other pools
            it makes no difference.
        instruction: appended to each problem.
        reward: ``"math"`` (1 for an equivalent answer), ``"toolstar"`` (the dialect ``"tags"`` only; see
            ``aster_env.rewards.toolstar``), or a Reward.
        require_tool: whether an answer before any executed call is refused, as an invalid call is; the episode goes on.
            Not with ``"toolstar"``, to which such an episode is malformed.
        **options: see ``ToolEnv``: ``tokenizer``, ``dialect``, ``system``, ``view``, ``render_mode``.

    Raises:
        UsageError: an argument is not allowed, or does not apply to such tasks.
    """

    def __init__(
        self,
        *,
        tasks: Any = "generated",
        split: str | None = None,
        tasks_path: str | None = None,
        fields: Fields | None = None,
        task_options: Mapping[str, Any] | None = None,
        max_tool_calls: int = 50,
        max_tokens: int = 32768,
        max_invalid_calls: int = 3,
        timeout: float = 30.0,
        max_output: int = 8192,
        pool: str | KernelPool = "zygote",
        pool_options: Mapping[str, Any] | None = None,
        allow_unsandboxed: bool = False,
        instruction: str = INSTRUCTION,
        reward: str | Reward = "math",
        require_tool: bool = False,
        **options: Any,
    ) -> None:
        limits = Limits(max_tool_calls, max_tokens, max_invalid_calls)
        check_call_limits(timeout, max_output)
        self._pool_choice, self._pool_options = pool, read_pool(pool, pool_options, allow_unsandboxed)
        loaded: TaskSet = load_tasks(
            tasks,
            path=tasks_path,
            split=split,
            fields=fields,
            kind="math",
            generators=GENERATORS,
            options=task_options,
        )
        super().__init__(
            loaded,
            choose_reward(reward, REWARDS, options.get("dialect", "hermes")),
            instruction=instruction,
            limits=limits,
            **options,
        )
        self._timeout, self._max_output = timeout, max_output
        self.require_tool = check_require_tool(require_tool, self.reward)
        self.hang_seconds = max(self.hang_seconds, 2 * timeout)
        self._leased: KernelPool | None = None

    async def open_tools(self) -> Sequence[Tool]:
        """Return the Python tool over the pool shared by the environments of this loop."""
        pool = self._pool_choice
        if isinstance(pool, str):
            pool = self._leased = lease_pool(pool, **self._pool_options)
        return [PythonTool(pool, timeout=self._timeout, max_output=self._max_output)]

    def refuse_answer(self, trajectory: Trajectory) -> str | None:
        """Say that the tool comes first, where it must and no call was executed yet."""
        return refuse_untried(self.require_tool, trajectory, "no code has been run", "'python'")

    async def close_tools(self) -> None:
        """Give the shared pool back."""
        leased, self._leased = self._leased, None
        if leased is not None:
            await release_pool(leased)


def make_vec(num_envs: int = 1, autoreset_mode: Any = "NextStep", **kwargs: Any) -> ToolVectorEnv:
    """Return ``num_envs`` of these environments as one; called by ``gymnasium.make_vec``."""
    return make_vector_env(PythonMathEnv, num_envs, autoreset_mode, kwargs)
