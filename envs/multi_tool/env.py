"""ASTER/MultiTool-v0: Python and search in one episode."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aster_env.env import ToolEnv
from aster_env.envs.wiki_qa.leasing import Library
from aster_env.errors import UsageError, check_name
from aster_env.kernels.base import KernelPool
from aster_env.kernels.shared import read_pool
from aster_env.limits import Limits
from aster_env.presets import Fields
from aster_env.retrieval import Retriever
from aster_env.rewards.base import Reward
from aster_env.rewards.choose import check_require_tool, choose_reward, refuse_untried
from aster_env.rewards.kinds import by_kind
from aster_env.rewards.toolstar import ToolStarReward
from aster_env.tasks import TaskSet, load_tasks
from aster_env.tools.base import Tool
from aster_env.types import Trajectory
from aster_env.vector import ToolVectorEnv, make_vector_env

from .tasks import GENERATORS, MIX
from .toolbox import Toolbox

REWARDS: Mapping[str, Callable[[], Reward]] = {
    "em": functools.partial(by_kind, "em"),
    "f1": functools.partial(by_kind, "f1"),
    "toolstar": ToolStarReward,
}
"""What scores an episode, by name."""
TOOLS = ("python", "search", "visit")
"""What an episode's tools may be."""
SITE: Mapping[str, int] = {"seed": 0, "size": 300}
"""The generated site that ``visit`` walks, unless another is asked for."""
INSTRUCTION = (
    "\n\nSearch for what you need, compute with code, and put your final answer, as short as possible, "
    "within \\boxed{}."
)


class MultiToolEnv(ToolEnv):
    """Mathematics, questions, and problems that need both; ``python``, ``search`` and ``visit`` in one episode.

    By default the encyclopedia is ``ASTER/WikiQA-v0``'s, and the tasks are generated: a mixture of mathematics, of
    questions about that world, and of problems whose numbers have to be searched before they can be computed with.

    Args:
        tools: the tools that an episode has, of ``TOOLS``; the prompt describes them in this order. ``visit`` walks
            ``ASTER/WebWalker-v0``'s generated site; a mixture that is not given then has its questions too.
        tasks: a TaskSet, a list of Tasks (of the kinds ``"math"`` and ``"qa"``), ``"generated"``, a preset of
            mathematics or questions, or a path; see ``aster_env.tasks.load_tasks``.
        split: which split of the generated tasks, a preset or a hub dataset.
        tasks_path: a local file for a preset, instead of the hub.
        fields: where a task's parts are in a row of a file or hub dataset: ``{"prompt": column, "answers": column}``.
        kind: of the tasks of a file or hub dataset: ``"math"`` or ``"qa"``.
        task_options: of the generated tasks: ``mix``, ``size``, ``seed``, ``level``, ``kinds``, ``operations``,
            ``about``; see ``tasks.generated``.
        corpus: see ``WikiQAEnv``, as ``world``, ``retriever``, ``retriever_options``, ``top_n`` and ``max_queries``.
        site: of the generated site, with the tool ``visit`` alone: ``seed``, ``size`` (about how many pages).
        timeout: seconds that a call of ``python`` may take; see ``PythonMathEnv``, as ``pool``, ``pool_options`` and
            ``allow_unsandboxed``.
        max_output: characters of a result that the model is shown: of every tool, or ``{"python": 400}``, the others'
            being 8192.
        max_tool_calls: calls an episode may make, of all tools together; the one after them ends it.
        tool_limits: calls of one tool, by its name: ``{"python": 3, "search": 3}``. One beyond is refused, as a call
            that cannot be executed is, and the model told so: it may still use the other tools, or answer.
        max_tokens: tokens an episode may have, prompt and observations included.
        max_invalid_calls: calls in a row that cannot be executed, those refused by ``tool_limits`` among them.
        instruction: appended to each task.
        reward: ``"em"`` (1 for an equivalent answer of mathematics, or an exact match of a question's), ``"f1"``
            (token F1 for questions), ``"toolstar"`` (the dialect ``"tags"`` only), or a Reward.
        require_tool: whether an answer before any executed call is refused, as an invalid call is; the episode goes on.
            Not with ``"toolstar"``, to which such an episode is malformed.
        **options: see ``ToolEnv``: ``tokenizer``, ``dialect``, ``system``, ``view``, ``render_mode``.

    Raises:
        UsageError: an argument is not allowed, or does not apply to such tasks, tools or such a retriever.
    """

    def __init__(
        self,
        *,
        tools: Sequence[str] = TOOLS[:2],
        tasks: Any = "generated",
        split: str | None = None,
        tasks_path: str | None = None,
        fields: Fields | None = None,
        kind: str = "math",
        task_options: Mapping[str, Any] | None = None,
        corpus: str | Path | None = None,
        world: Mapping[str, int] | None = None,
        retriever: str | Retriever = "lexical",
        retriever_options: Mapping[str, Any] | None = None,
        top_n: int = 5,
        max_queries: int = 5,
        site: Mapping[str, int] | None = None,
        timeout: float = 30.0,
        pool: str | KernelPool = "zygote",
        pool_options: Mapping[str, Any] | None = None,
        allow_unsandboxed: bool = False,
        max_output: int | Mapping[str, int] = 8192,
        max_tool_calls: int = 50,
        tool_limits: Mapping[str, int] | None = None,
        max_tokens: int = 32768,
        max_invalid_calls: int = 3,
        instruction: str = INSTRUCTION,
        reward: str | Reward = "em",
        require_tool: bool = False,
        **options: Any,
    ) -> None:
        self._names = _read_tools(tools)
        limits = Limits(max_tool_calls, max_tokens, max_invalid_calls, tool_limits=_read_limits(tool_limits, tools))
        library, place = Library(retriever, corpus, retriever_options, world), _read_site(site, self._names)
        leases = (pool, read_pool(pool, pool_options, allow_unsandboxed))
        self._box = Toolbox(self._names, library, leases, timeout, max_output, top_n, max_queries)
        about = {**library.about, "site_seed": place["seed"], "pages": place["size"]}
        given: dict[str, Any] = {"path": tasks_path, "split": split, "fields": fields, "kind": _read_kind(kind)}
        families = {"generated": functools.partial(GENERATORS["generated"], **about)}
        task_options = _read_options(tasks, task_options, self._names)
        loaded = load_tasks(tasks, generators=families, options=task_options, **given)
        _check_match(tasks, loaded, library.corpus, self._names)
        if "visit" in self._names:
            self._box.walk(loaded, split, place, asked=site is not None)
        chosen = choose_reward(reward, REWARDS, options.get("dialect", "hermes"))
        super().__init__(loaded, chosen, instruction=instruction, limits=limits, **options)
        self.require_tool = check_require_tool(require_tool, chosen)
        self.hang_seconds = max(self.hang_seconds, 2 * timeout)

    async def open_tools(self) -> Sequence[Tool]:
        """Return the tools, over what the environments of this loop share."""
        return await self._box.open()

    async def close_tools(self) -> None:
        """Give back what is shared."""
        await self._box.close()

    def sources(self) -> Mapping[str, str]:
        """Return which corpus was searched, its licence and hash, and which site was walked."""
        return self._box.sources()

    def refuse_answer(self, trajectory: Trajectory) -> str | None:
        """Say that a tool comes first, where one must and no call was executed yet."""
        tools = " or ".join(map(repr, self._names))
        return refuse_untried(self.require_tool, trajectory, "no tool has been called", tools)


def make_vec(num_envs: int = 1, autoreset_mode: Any = "NextStep", **kwargs: Any) -> ToolVectorEnv:
    """Return ``num_envs`` of these environments as one; called by ``gymnasium.make_vec``."""
    return make_vector_env(MultiToolEnv, num_envs, autoreset_mode, kwargs)


def _read_tools(tools: Any) -> tuple[str, ...]:
    if isinstance(tools, str) or not isinstance(tools, Sequence):
        raise UsageError(f"tools={tools!r} is a {type(tools).__name__}. Allowed: a list of {', '.join(TOOLS)}.")
    for name in tools:
        check_name("tool", name, TOOLS)
    if not tools or len(set(tools)) < len(tools):
        raise UsageError(f"tools={tools!r} is not allowed. Allowed: one or several of {', '.join(TOOLS)}, each once.")
    return tuple(tools)


def _read_limits(limits: Any, tools: Sequence[str]) -> Mapping[str, int]:
    """Return the limits of single tools; ``Limits`` checks their form."""
    for name in limits if isinstance(limits, Mapping) else ():
        check_name("tool in tool_limits", name, tools)
    return {} if limits is None else limits


def _read_site(site: Any, tools: Sequence[str]) -> dict[str, int]:
    """Return which site is walked; ``build_site`` checks its numbers."""
    if site is not None and (not isinstance(site, Mapping) or "visit" not in tools):
        raise UsageError(f"site={site!r} is not allowed. Allowed: a mapping of seed and size, with the tool 'visit'.")
    for name in site or ():
        check_name("option of the generated site", name, SITE)
    return {**SITE, **(site or {})}


def _read_kind(kind: Any) -> str:
    return check_name("kind of task", kind, ("math", "qa"))


def _read_options(tasks: Any, options: Any, tools: Sequence[str]) -> Any:
    """Return the options of the generated tasks; their world and site are arguments of their own."""
    if tasks == "generated" and "visit" not in tools and isinstance((options or {}).get("mix"), Mapping):
        if options["mix"].get("web"):
            raise UsageError(f"mix={options['mix']!r} has tasks of the web. Fix: tools=('python', 'search', 'visit').")
    elif tasks == "generated" and "visit" in tools and "mix" not in (options or {}):
        options = {**(options or {}), "mix": {**MIX, "web": 1}}
    for name in options or () if tasks == "generated" else ():
        known = ("mix", "size", "seed", "level", "kinds", "operations", "about")
        check_name("option of the generated tasks (of their world: world)", name, known)
    return options


def _check_match(tasks: Any, loaded: TaskSet, corpus: str | None, tools: Sequence[str]) -> None:
    """Raise ``UsageError`` where tasks cannot be scored, or ask about another world than the tools reach."""
    for task in loaded:
        check_name(f"kind of the task {task.id!r}", task.kind, ("math", "qa"))
        if "visit" not in tools and isinstance(task.metadata.get("site"), Mapping):
            raise UsageError(
                f"The task {task.id!r} is about a web site, and tools={tuple(tools)!r} has no 'visit'. "
                "Fix: tools=('python', 'search', 'visit')."
            )
    generated = isinstance(tasks, str) and tasks == "generated"
    asks = [task for task in loaded if task.kind == "qa" or task.metadata.get("family") == "both"]
    if generated and asks and corpus not in (None, "generated"):
        raise UsageError(
            f"tasks='generated' are about the generated encyclopedia, and corpus={corpus!r} is another. "
            "Fix: name the tasks with tasks, or leave the corpus out."
        )
    if not generated and isinstance(tasks, str | Path) and asks and corpus == "generated":
        raise UsageError(
            f"tasks={str(tasks)!r} holds questions that are not about the generated encyclopedia, which has no answer "
            "to them. Fix: pass the folder of a corpus (`aster corpus build`), or retriever='http'."
        )
