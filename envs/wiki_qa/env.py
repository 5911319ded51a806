"""ASTER/WikiQA-v0: questions answered by searching an encyclopedia."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aster_env.env import ToolEnv
from aster_env.errors import UsageError, check_name
from aster_env.limits import Limits
from aster_env.presets import Fields
from aster_env.retrieval import RETRIEVERS, Retriever, open_retriever
from aster_env.retrieval.shared import lease_retriever, release_retriever
from aster_env.rewards.base import Reward
from aster_env.rewards.choose import check_require_tool, choose_reward
from aster_env.rewards.qa import QAReward
from aster_env.rewards.toolstar import ToolStarReward
from aster_env.tasks import load_tasks
from aster_env.tools.base import Tool
from aster_env.tools.search import SearchTool, check_search_limits
from aster_env.types import Trajectory
from aster_env.vector import ToolVectorEnv, make_vector_env

from .encyclopedia import generated_corpus
from .tasks import GENERATORS

REWARDS: Mapping[str, Callable[[], Reward]] = {
    "em": functools.partial(QAReward, "em"),
    "f1": functools.partial(QAReward, "f1"),
    "toolstar": ToolStarReward,
}
"""What scores an episode, by name."""
INSTRUCTION = "\n\nSearch for what you need, and put your final answer, as short as possible, within \\boxed{}."
WORLD: Mapping[str, int] = {"seed": 0, "passages": 20_000}
"""The generated encyclopedia, unless another is asked for."""
_building = threading.Lock()


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
        self._choice, self._corpus, self._retriever_options = _read_retriever(retriever, corpus, retriever_options)
        _check_match(tasks, task_options, self._corpus, world)
        self._world = _read_world(world)
        about = functools.partial(
            GENERATORS["generated"], world_seed=self._world["seed"], passages=self._world["passages"]
        )
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
        if isinstance(self._choice, str):
            options = dict(self._retriever_options)
            if self._corpus == "generated":
                options["corpus"] = str(await asyncio.to_thread(_generated, self._world))
            elif self._corpus is not None:
                options["corpus"] = self._corpus
            self._retriever = lease_retriever(self._choice, **options)
        else:
            self._retriever = self._choice
        return [SearchTool(self._retriever, *self._search_limits)]

    def sources(self) -> Mapping[str, str]:
        """Return which corpus was searched, its licence and hash."""
        return self._retriever.source if self._retriever is not None else {}

    def refuse_answer(self, trajectory: Trajectory) -> str | None:
        """Say that the tool comes first, where it must and no call was executed yet."""
        if not self.require_tool or trajectory.tool_calls:
            return None
        return "The answer was not taken: nothing has been searched yet. Call 'search' first, then answer."

    async def close_tools(self) -> None:
        """Give the shared retriever back."""
        held, self._retriever = self._retriever, None
        if held is not None and isinstance(self._choice, str):
            await release_retriever(held)


def make_vec(num_envs: int = 1, autoreset_mode: Any = "NextStep", **kwargs: Any) -> ToolVectorEnv:
    """Return ``num_envs`` of these environments as one; called by ``gymnasium.make_vec``."""
    return make_vector_env(WikiQAEnv, num_envs, autoreset_mode, kwargs)


def _generated(world: Mapping[str, int]) -> Path:
    with _building:
        return generated_corpus(world["seed"], world["passages"])


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


def _read_world(given: Any) -> dict[str, int]:
    if given is not None and not isinstance(given, Mapping):
        raise UsageError(f"world={given!r} is a {type(given).__name__}. Allowed: a mapping of seed and passages.")
    world = {**WORLD, **(given or {})}
    for name, value in world.items():
        check_name("option of the generated encyclopedia", name, WORLD)
        if not isinstance(value, int) or isinstance(value, bool) or value < (1 if name == "passages" else 0):
            raise UsageError(f"world[{name!r}]={value!r} is not allowed. Allowed: a whole number.")
    return world


def _read_retriever(
    choice: Any, corpus: Any, options: Mapping[str, Any] | None
) -> tuple[str | Retriever, str | None, dict[str, Any]]:
    """Return the retriever, the corpus it searches on this machine, and its other options, checked."""
    if options is not None and not isinstance(options, Mapping):
        raise UsageError(f"retriever_options={options!r} is a {type(options).__name__}. Allowed: a mapping of options.")
    given = dict(options or {})
    if not isinstance(choice, str):
        if not isinstance(choice, Retriever):
            raise UsageError(f"retriever={choice!r} is a {type(choice).__name__}. Allowed: a name, or a Retriever.")
        if corpus is not None or given:
            raise UsageError(
                "corpus and retriever_options do not apply to a Retriever that is made already. Fix: leave them out."
            )
        return choice, None, {}
    check_name("retriever", choice, RETRIEVERS)
    if "corpus" in given:
        raise UsageError("retriever_options['corpus'] is not allowed. Fix: pass the folder as corpus.")
    if choice == "http":
        if corpus is not None:
            raise UsageError(f"corpus={corpus!r} does not apply to a retrieval service. Fix: leave it out.")
        open_retriever(choice, **given)
        return choice, None, given
    corpus = "generated" if corpus is None else str(corpus)
    if corpus == "generated" and choice == "dense":
        raise UsageError(
            "The generated encyclopedia has a lexical index alone. Fix: retriever='lexical'; or write it to a folder "
            "(aster_env.envs.wiki_qa.encyclopedia.generated_corpus), add vectors (`aster index build --kind dense`), "
            "and pass a DenseRetriever of it as retriever."
        )
    if corpus != "generated":
        open_retriever(choice, corpus=corpus, **given)
    return choice, corpus, given
