"""Inference-time modules (Tool-Star, arXiv 2505.16410): Policies around a Policy that step in at most once an episode.

===================  ===============================================  ====================================
module               steps in                                         what is trained of its turn
===================  ===============================================  ====================================
``CodeDebugger``     after code that failed: calls corrected code     nothing: written under another context
``Backtracker``      after a call that failed: samples it again       all of it: sampled under the row's ids
``ChainRefiner``     when the chain is long: writes it anew, shorter  nothing: written under another context
===================  ===============================================  ====================================

They go wherever a Policy goes: into ``rollout`` and ``play``, and so into training and evaluation; a loop of one's own
hands the whole ``Completion`` to ``step``, and reads the context from the episode's turns. Several are one inside the
other; the outermost that has something to do steps in.

Every module counts in ``Trajectory.usage``, which evaluations sum up: its own name, how often it stepped in (0 or 1);
``side_tokens``, tokens that were sampled and are not in the row; ``back_tokens``, tokens taken out of the row. What a
module wrote has ``Turn.module``, and ``Trajectory.mask`` 0. Calls that were taken back stay counted against the limits,
and what they changed stays changed: the next result says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from aster_env.dialects.base import Dialect
from aster_env.errors import UsageError, check_name
from aster_env.modules.backtracker import Backtracker
from aster_env.modules.base import Module
from aster_env.modules.debugger import CodeDebugger
from aster_env.modules.refiner import ChainRefiner
from aster_env.rollout import Policy

MODULES: dict[str, type[Module]] = {module.name: module for module in (CodeDebugger, Backtracker, ChainRefiner)}
"""Modules by name."""


def with_modules(policy: Policy, names: Sequence[str], dialect: Dialect, helper: Policy | None = None) -> Policy:
    """Return a policy with modules around it.

    Args:
        policy: plays the assistant.
        names: of ``MODULES``; where several could step in, the first does.
        dialect: that of the environments.
        helper: writes what the debugger and the refiner need; the policy itself if None.

    Raises:
        UsageError: a name is unknown or comes twice.
    """
    for name in reversed(check_modules(names)):
        policy = MODULES[name](policy, dialect, helper)
    return policy


def check_modules(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of modules; raise ``UsageError`` where one is unknown or comes twice."""
    if isinstance(names, str) or len(set(names)) < len(names):
        raise UsageError(f"modules={names!r} is not allowed. Allowed: a list of {', '.join(MODULES)}, each once.")
    return tuple(check_name("module", name, MODULES) for name in names)


__all__ = ["MODULES", "Backtracker", "ChainRefiner", "CodeDebugger", "Module", "check_modules", "with_modules"]
