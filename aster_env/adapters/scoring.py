"""Playing an agent on tasks, and what came of it in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from aster_env.adapters.session import ToolSession
from aster_env.endpoints import Refused
from aster_env.errors import InfrastructureError
from aster_env.evaluate.policies.contact import out_of_context
from aster_env.types import Task


@dataclass(slots=True)
class Scored:
    """What came of an agent's episodes.

    Args:
        rewards: one for each episode that was scored.
        calls: calls executed in them.
        ended: how many episodes ended for each ``StopReason``, or by the name of what failed outside the agent.
    """

    rewards: list[float] = field(default_factory=list)
    calls: int = 0
    ended: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        stops = ", ".join(f"{name} {count}" for name, count in self.ended.most_common()) or "none"
        if not self.rewards:
            return f"no episode was scored; ended: {stops}"
        mean = sum(self.rewards) / len(self.rewards)
        return f"mean reward {mean:.3f} over {len(self.rewards)} episodes, {self.calls} calls; ended: {stops}"


def score(
    play: Callable[[ToolSession], None],
    session: ToolSession,
    tasks: Iterable[Task],
    failures: tuple[type[Exception], ...] = (),
) -> Scored:
    """Let an agent play one episode a task, one after another.

    Args:
        play: plays the episode that has begun; where it returns without an answer, the agent gave up.
        session: on which environment.
        tasks: what is asked.
        failures: exceptions of ``play`` that are not the agent's mistakes, a model's endpoint that fails say. Like an
            ``InfrastructureError``, they are counted and not scored. Two are no failures: one after the episode's end,
            and an endpoint's refusal of a conversation longer than the model's context, for which the agent gave up.
    """
    scored = Scored()
    outside: tuple[type[Exception], ...] = (InfrastructureError, *failures)
    for task in tasks:
        try:
            session.start(task)
            try:
                play(session)
            except failures as error:
                session.check()
                if session.trajectory is None and not _too_long(error):
                    raise
            if session.trajectory is None:
                session.answer("")
        except outside as error:
            scored.ended[type(error).__name__] += 1
            continue
        ended = session.trajectory
        if ended is None or ended.reward is None:
            # An environment that takes no answer before a call has told an agent that gave up to go on.
            scored.ended["unfinished"] += 1
            continue
        scored.rewards.append(ended.reward)
        scored.calls += ended.tool_calls
        scored.ended[str(ended.stop)] += 1
    return scored


def _too_long(error: BaseException | None) -> bool:
    """Whether an endpoint refused a conversation for its length, as the OpenAI SDK or a framework around it says."""
    while error is not None:
        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            return out_of_context(Refused(status, str(error), ""))
        error = error.__cause__
    return False
