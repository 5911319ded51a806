"""ASTER/WebWalker-v0: questions answered by walking a web site, or the web."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aster_env.env import ToolEnv
from aster_env.errors import UsageError, check_name
from aster_env.limits import Limits
from aster_env.presets import Fields
from aster_env.rewards.base import Reward
from aster_env.rewards.choose import check_require_tool, choose_reward, refuse_untried
from aster_env.rewards.kinds import by_kind
from aster_env.rewards.toolstar import ToolStarReward
from aster_env.tasks import TaskSet, load_tasks
from aster_env.tools.base import Tool
from aster_env.tools.browse import BrowseTool, WebSearchTool, check_web_limits
from aster_env.tools.links import Links
from aster_env.types import Trajectory
from aster_env.vector import ToolVectorEnv, make_vector_env
from aster_env.web.providers import Provider

from .access import Access, Web, check_provider
from .site import Site, build_site
from .tasks import GENERATORS

REWARDS: Mapping[str, Callable[[], Reward]] = {
    "em": functools.partial(by_kind, "em"),
    "f1": functools.partial(by_kind, "f1"),
    "toolstar": ToolStarReward,
}
"""What scores an episode, by name."""
INSTRUCTION = (
    "\n\nSearch and visit pages for what you need, and put your final answer, as short as possible, within \\boxed{}."
)


class WebWalkerEnv(ToolEnv):
    """Questions; the tools ``search`` and ``visit`` walk the pages of a site, or of the web.

    By default both are generated: the site of a province that does not exist, served on loopback by the environment
    itself. Environments of one event loop share its server, and the processes that read pages; the last closes them.

    Args:
        tasks: a TaskSet, a list of Tasks (of the kinds ``"qa"`` and ``"math"``), ``"generated"`` (about the generated
            site), a preset such as ``"hotpotqa"``, or a path; see ``aster_env.tasks.load_tasks``.
        split: which split of the generated questions, a preset or a hub dataset.
        tasks_path: a local file for a preset, instead of the hub.
        fields: where a task's parts are in a row of a file or hub dataset: ``{"prompt": column, "answers": column}``.
        task_options: of the generated questions: ``families``, ``size``, ``seed``.
        site: of the generated site: ``seed``, ``size`` (about how many pages).
        provider: what ``search`` asks, and which web is walked: ``"site"``; or ``"tavily"``, ``"serper"``,
            ``"brave"``, ``"searxng"`` or a Provider (which stays open), and the web itself.
        provider_options: for ``aster_env.web.providers.open_provider``: ``key_variable``, ``url``, …
        record: the folder of a recording of all that comes from outside.
        mode: ``"off"``, ``"record"``, ``"replay"`` (nothing else is reached) or ``"replay_or_record"``.
        fetch_options: of ``aster_env.web.Fetcher``: ``seconds``, ``max_bytes``, ``concurrency``, ``robots``.
        reader_options: of ``aster_env.web.Extractor``: ``workers``, ``seconds``, ``recycle``, ``max_chars``,
            ``max_links``.
        top_n: results a query.
        max_queries: queries a call may hold.
        max_output: characters of a result that the model is shown.
        max_tool_calls: calls an episode may make.
        max_tokens: tokens an episode may have, prompt and observations included.
        max_invalid_calls: calls in a row that cannot be executed.
        instruction: appended to each question.
        reward: ``"em"`` (1 for an exact match, SQuAD's, or an equivalent number), ``"f1"`` (token F1 for questions),
            ``"toolstar"`` (the dialect ``"tags"`` only), or a Reward.
        require_tool: whether an answer before any executed call is refused, as an invalid call is; the episode goes on.
        **options: see ``ToolEnv``: ``tokenizer``, ``dialect``, ``system``, ``view``, ``render_mode``.

    Raises:
        UsageError: an argument is not allowed, or does not apply to such tasks or such a provider.
        MissingExtraError: what reads pages is not installed.
    """

    def __init__(
        self,
        *,
        tasks: Any = "generated",
        split: str | None = None,
        tasks_path: str | None = None,
        fields: Fields | None = None,
        task_options: Mapping[str, Any] | None = None,
        site: Mapping[str, int] | None = None,
        provider: str | Provider = "site",
        provider_options: Mapping[str, Any] | None = None,
        record: str | Path | None = None,
        mode: str = "off",
        fetch_options: Mapping[str, Any] | None = None,
        reader_options: Mapping[str, Any] | None = None,
        top_n: int = 8,
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
        check_web_limits(max_output, top_n, max_queries)
        wanted = _read_site(site, tasks, task_options, check_provider(provider))
        about = functools.partial(GENERATORS["generated"], site_seed=wanted["seed"], pages=wanted["size"])
        loaded = load_tasks(
            tasks,
            path=tasks_path,
            split=split,
            fields=fields,
            kind="qa",
            generators={"generated": about},
            options=task_options,
        )
        self.site = site_of(loaded, wanted, site is not None)
        self._access = Access(provider, provider_options, self.site, record, mode, fetch_options, reader_options)
        chosen = choose_reward(reward, REWARDS, options.get("dialect", "hermes"))
        super().__init__(loaded, chosen, instruction=instruction, limits=limits, **options)
        self._bounds = {"max_output": max_output, "top_n": top_n, "max_queries": max_queries}
        self.require_tool = check_require_tool(require_tool, chosen)
        self._web: Web | None = None

    async def open_tools(self) -> Sequence[Tool]:
        """Return both tools over the web shared by the environments of this loop, and the episode's own links."""
        self._web = web = await self._access.lease()
        links = Links()
        visit = BrowseTool(web.pages, web.reader, links, self._bounds["max_output"])
        return [WebSearchTool(web.search, links, **self._bounds), visit]

    def sources(self) -> Mapping[str, str]:
        """Return which site was walked, its seed and hash; or which web, and which recording."""
        return self._web.about if self._web is not None else {}

    def refuse_answer(self, trajectory: Trajectory) -> str | None:
        """Say that the tools come first, where they must and no call was executed yet."""
        return refuse_untried(self.require_tool, trajectory, "no page has been looked for", "'search' or 'visit'")

    async def close_tools(self) -> None:
        """Give the shared web back."""
        held, self._web = self._web, None
        if held is not None:
            await self._access.release(held)


def make_vec(num_envs: int = 1, autoreset_mode: Any = "NextStep", **kwargs: Any) -> ToolVectorEnv:
    """Return ``num_envs`` of these environments as one; called by ``gymnasium.make_vec``."""
    return make_vector_env(WebWalkerEnv, num_envs, autoreset_mode, kwargs)


def _read_site(given: Any, tasks: Any, task_options: Any, provider: Any) -> dict[str, Any]:
    """Return which generated site is wanted; ``UsageError`` where it and the tasks cannot go together."""
    if given is not None and not isinstance(given, Mapping):
        raise UsageError(f"site={given!r} is a {type(given).__name__}. Allowed: a mapping of seed and size.")
    for name in given or ():
        check_name("option of the generated site", name, ("seed", "size"))
    if provider != "site" and given is not None:
        raise UsageError(f"site={given!r} is of the generated site, which is not walked. Fix: leave it out.")
    if tasks == "generated":
        for name in task_options or ():
            check_name("option of the generated questions (of their site: site)", name, ("families", "size", "seed"))
        if provider != "site":
            raise UsageError(
                f"tasks='generated' are about the generated site, and provider={provider!r} searches the web, which "
                "has no answer to them. Fix: name the questions with tasks, or leave the provider out."
            )
    elif (
        isinstance(tasks, str | Path)
        and provider == "site"
        and not str(tasks).endswith((".jsonl", ".json", ".parquet"))
    ):
        raise UsageError(
            f"tasks={str(tasks)!r} are not about the generated site, which has no answer to them. Fix: name a provider "
            "('tavily', 'serper', 'brave', 'searxng'), or a recording of one with mode='replay'."
        )
    return {"seed": 0, "size": 300, "split": "train", **(given or {})}


def site_of(tasks: TaskSet, wanted: Mapping[str, Any], asked: bool) -> Site:
    """Return the site that the tasks are about, as their metadata says; else the one that is wanted.

    Args:
        tasks: of any kind.
        wanted: ``seed``, ``size`` and ``split``.
        asked: whether a user named the site, so that tasks about another are refused.

    Raises:
        UsageError: tasks are about several sites, or about another than was asked for.
    """
    about: list[Mapping[str, Any]] = []
    for task in tasks:
        named = task.metadata.get("site")
        if isinstance(named, Mapping) and named not in about:
            about.append(named)
    if len(about) > 1:
        raise UsageError(f"The tasks are about {len(about)} generated sites. Fix: an environment for each of them.")
    if about and asked and any(about[0].get(name) != wanted[name] for name in ("seed", "size")):
        raise UsageError(f"The tasks are about the site {dict(about[0])!r}, not {dict(wanted)!r}. Fix: leave site out.")
    return build_site(**(about[0] if about else wanted))
