"""ASTER/PythonMath-v0: mathematics with a persistent Python session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aster_env.env import ToolEnv
from aster_env.errors import UsageError
from aster_env.kernels import check_pool, pool_options
from aster_env.kernels.base import KernelPool
from aster_env.kernels.shared import lease_pool, release_pool
from aster_env.limits import Limits
from aster_env.presets import Fields
from aster_env.rewards.math import MathReward
from aster_env.tasks import TaskSet, load_tasks, share_tasks
from aster_env.tools.base import Tool
from aster_env.tools.python import PythonTool, check_call_limits
from aster_env.vector import ToolVectorEnv

from .tasks import GENERATORS

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
        **options: Any,
    ) -> None:
        limits = Limits(max_tool_calls, max_tokens, max_invalid_calls)
        check_call_limits(timeout, max_output)
        self._pool_choice, self._pool_options = pool, _read_options(pool, pool_options, allow_unsandboxed)
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
            MathReward(),
            instruction=instruction,
            limits=limits,
            **options,
        )
        self._timeout, self._max_output = timeout, max_output
        self.hang_seconds = max(self.hang_seconds, 2 * timeout)
        self._leased: KernelPool | None = None

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
    made: list[PythonMathEnv] = []

    def make() -> PythonMathEnv:
        # The tasks are read or generated once; the other environments share them.
        made.append(PythonMathEnv(**(share_tasks(kwargs, made[0].tasks) if made else kwargs)))
        return made[-1]

    return ToolVectorEnv(make, num_envs, autoreset_mode)


def _read_options(pool: Any, options: Any, allow_unsandboxed: Any) -> dict[str, Any]:
    """Return the options that ``open_pool`` gets, checked."""
    if not isinstance(allow_unsandboxed, bool):
        raise UsageError(f"allow_unsandboxed={allow_unsandboxed!r} is not allowed. Allowed: True or False.")
    if options is not None and not isinstance(options, Mapping):
        raise UsageError(f"pool_options={options!r} is a {type(options).__name__}. Allowed: a mapping of options.")
    if not isinstance(pool, str):
        if not isinstance(pool, KernelPool):
            raise UsageError(f"pool={pool!r} is a {type(pool).__name__}. Allowed: a name, or a KernelPool.")
        if options:
            raise UsageError(f"pool_options={options!r} do not apply to a pool that is open. Fix: leave them out.")
        return {}
    known = {"allow_unsandboxed": allow_unsandboxed} if "allow_unsandboxed" in pool_options(pool) else {}
    chosen = {**known, **(options or {})}
    check_pool(pool, chosen)
    return chosen
