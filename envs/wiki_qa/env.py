"""ASTER/WikiQA-v0: questions answered by searching an encyclopedia."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aster_env.env import ToolEnv
from aster_env.errors import UsageError, check_name
from aster_env.limits import Limits
from aster_env.presets import Fields
from aster_env.retrieval import Retriever
from aster_env.rewards.base import Reward
from aster_env.rewards.choose import check_require_tool, choose_reward, refuse_untried
from aster_env.rewards.qa import QAReward
from aster_env.rewards.toolstar import ToolStarReward
from aster_env.tasks import load_tasks
from aster_env.tools.base import Tool
from aster_env.tools.search import SearchTool, check_search_limits
from aster_env.types import Trajectory
from aster_env.vector import ToolVectorEnv, make_vector_env

from .leasing import WORLD as WORLD
from .leasing import Library
from .tasks import GENERATORS

REWARDS: Mapping[str, Callable[[], Reward]] = {
    "em": functools.partial(QAReward, "em"),
    "f1": functools.partial(QAReward, "f1"),
    "toolstar": ToolStarReward,
}
"""What scores an episode, by name."""
INSTRUCTION = "\n\nSearch for what you need, and put your final answer, as short as possible, within \\boxed{}."


class WikiQAEnv(ToolEnv):
    """Questions; the tool ``search`` finds passages of an encyclopedia.

    By default both are generated, a fictional world that no model can remember: the first episode ever writes and
    indexes it, in seconds, and keeps it in the cache folder (``aster_env.retrieval.cache``).

    Args:
        tasks: a TaskSet, a list of Tasks, ``"generated"`` (about the generated encyclopedia), a preset (``"nq"``,
            ``"hotpotqa"``, ``"2wikimultihopqa"``, ``"musique"``, ``"bamboogle"``) or a path; see
            ``aster_env.tasks.load_tasks``.
        split: which split of the generated questions, a preset or a hub dataset.
        tasks_path: a local file for a preset, instead of the hub.
        fields: where a task's parts are in a row of a file or hub dataset: ``{"prompt": column, "answers": column}``.
        task_options: of the generated questions: ``kinds``, ``size``, ``seed``.
        corpus: ``"generated"``, or the folder of a corpus (see ``aster corpus build``); does not apply to a service.
        world: of the generated encyclopedia: ``seed``, ``passages``.
        retriever: ``"lexical"``, ``"dense"``, ``"http"``, or a Retriever, which stays open.
        retriever_options: passed to ``aster_env.retrieval.open_retriever``, beside the corpus.
        top_n: passages a query.
        max_queries: queries a call may hold.
        max_output: characters of a result that the model is shown.
        max_tool_calls: calls an episode may make.
        max_tokens: tokens an episode may have, prompt and observations included.
        max_invalid_calls: calls in a row that cannot be executed.
        instruction: appended to each question.
        reward: ``"em"`` (1 for an exact match, SQuAD's), ``"f1"``, ``"toolstar"`` (the dialect ``"tags"`` only), or a
            Reward.
        require_tool: whether an answer before any executed call is refused, as an invalid call is; the episode goes on.
        **options: see ``ToolEnv``: ``tokenizer``, ``dialect``, ``system``, ``view``, ``render_mode``.

    Raises:
        UsageError: an argument is not allowed, or does not apply to such tasks or such a retriever.
    """

    def __init__(
        self,
        *,
        tasks: Any = "generated",
        split: str | None = None,
        tasks_path: str | None = None,
        fields: Fields | None = None,
        task_options: Mapping[str, Any] | None = None,
        corpus: str | Path | None = None,
        world: Mapping[str, int] | None = None,
        retriever: str | Retriever = "lexical",
        retriever_options: Mapping[str, Any] | None = None,
        top_n: int = 5,
        max_queries: int = 5,
        max_output: int = 8192,
        max_tool_calls: int = 50,
        max_tokens: int = 32768,
        max_invalid_calls: int = 3,
        instruction: str = INSTRUCTION,
        reward: str | Reward = "em",
        require_tool: bool = False,
        **options: Any,
    ) -> None:
        limits = Limits(max_tool_calls, max_tokens, max_invalid_calls)
        check_search_limits(top_n, max_output, max_queries)
        self._library = Library(retriever, corpus, retriever_options, world)
        _check_match(tasks, task_options, self._library.corpus, world)
        about = functools.partial(GENERATORS["generated"], **self._library.about)
        loaded = load_tasks(
            tasks,
            path=tasks_path,
            split=split,
            fields=fields,
            kind="qa",
            generators={"generated": about},
            options=task_options,
        )
        chosen = choose_reward(reward, REWARDS, options.get("dialect", "hermes"))
        super().__init__(loaded, chosen, instruction=instruction, limits=limits, **options)
        self._search_limits = (top_n, max_output, max_queries)
        self.require_tool = check_require_tool(require_tool, chosen)
        self._retriever: Retriever | None = None

    async def open_tools(self) -> Sequence[Tool]:
        """Return the search tool over the retriever shared by the environments of this loop."""
        self._retriever = await self._library.lease()
        return [SearchTool(self._retriever, *self._search_limits)]

    def sources(self) -> Mapping[str, str]:
        """Return which corpus was searched, its licence and hash."""
        return self._retriever.source if self._retriever is not None else {}

    def refuse_answer(self, trajectory: Trajectory) -> str | None:
        """Say that the tool comes first, where it must and no call was executed yet."""
        return refuse_untried(self.require_tool, trajectory, "nothing has been searched", "'search'")

    async def close_tools(self) -> None:
        """Give the shared retriever back."""
        held, self._retriever = self._retriever, None
        if held is not None:
            await self._library.release(held)


def make_vec(num_envs: int = 1, autoreset_mode: Any = "NextStep", **kwargs: Any) -> ToolVectorEnv:
    """Return ``num_envs`` of these environments as one; called by ``gymnasium.make_vec``."""
    return make_vector_env(WikiQAEnv, num_envs, autoreset_mode, kwargs)


def _check_match(tasks: Any, options: Any, corpus: str | None, world: Any) -> None:
    """Raise ``UsageError`` where the questions and the corpus cannot be about the same world."""
    if tasks == "generated":
        for name in options or ():
            check_name("option of the generated questions (of their world: world)", name, ("kinds", "size", "seed"))
        if corpus not in (None, "generated"):
            raise UsageError(
                f"tasks='generated' are about the generated encyclopedia, and corpus={corpus!r} is another. "
                "Fix: name the questions with tasks, or leave the corpus out."
            )
    elif isinstance(tasks, str | Path) and corpus == "generated":
        raise UsageError(
            f"tasks={str(tasks)!r} are not about the generated encyclopedia, which has no answer to them. Fix: pass "
            "the folder of a corpus (`aster corpus build`), or retriever='http'."
        )
    elif isinstance(tasks, str | Path) and world is not None:
        raise UsageError(f"world={world!r} is of the generated encyclopedia, which is not used. Fix: leave it out.")
