"""Every error aster raises on purpose, as one tree.

::

    AsterError
    ├── UsageError (ValueError)      the caller passed something that cannot work; the text says the fix
    │   └── UnknownNameError         a name that is not among the allowed ones; offers the nearest
    ├── MissingExtraError (ImportError)   an optional dependency is not installed; names the extra
    └── InfrastructureError (RuntimeError)   something outside the model failed: never an observation,
        │                                    never a wrong answer; the episode is masked and counted
        ├── KernelError              a Python session could not be started or reached
        ├── RetrieverError           a search backend failed
        ├── WebError                 the web tools' own machinery failed (not a page, which the model reads about);
        │                            below it: ReplayMissError
        ├── JudgeError               a reward worker, or the LLM that judges, could not be reached
        └── PolicyError              the model endpoint failed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AsterError(Exception):
    """Base of every error raised by aster on purpose."""


class UsageError(AsterError, ValueError):
    """The caller passed something that cannot work; the text names it, what is allowed, and the fix."""


class UnknownNameError(UsageError):
    """A name that is not among the allowed ones.

    Args:
        what: what the name stands for ("dialect", "task id", …).
        name: the value received.
        allowed: the values allowed; at most twelve are printed.
    """

    def __init__(self, what: str, name: object, allowed: Iterable[str]) -> None:
        self.what, self.name, self.allowed = what, name, sorted(allowed)
        near = _nearest(str(name)[:200], self.allowed)
        hint = f" Did you mean {near!r}?" if near else ""
        shown = ", ".join(map(repr, self.allowed[:12])) or "none"
        more = f", … ({len(self.allowed)} in all)" if len(self.allowed) > 12 else ""
        super().__init__(f"Unknown {what} {name!r}.{hint} Allowed: {shown}{more}.")


class MissingExtraError(AsterError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: the package that could not be imported.
        extra: the extra of this project that brings it.
        purpose: what needed it.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. Fix: pip install 'aster-gym[{extra}]'."
        )


class InfrastructureError(AsterError, RuntimeError):
    """Something outside the model failed; the episode is masked from the loss and counted."""


class KernelError(InfrastructureError):
    """A Python session could not be started or reached."""


class RetrieverError(InfrastructureError):
    """A search backend failed."""


class WebError(InfrastructureError):
    """The web tools' own machinery failed: the network, the extracting processes, a recording."""


class JudgeError(InfrastructureError):
    """A reward worker could not be started, or the LLM that judges gave no verdict."""


class PolicyError(InfrastructureError):
    """The model endpoint failed."""


def _nearest(name: str, allowed: list[str]) -> str | None:
    """Return what was meant: of the close names one of about the same length ('modle': 'model', not 'modules')."""

    def likeness(each: str) -> float:
        return difflib.SequenceMatcher(None, each, name).ratio() - 0.03 * abs(len(each) - len(name))

    return max(difflib.get_close_matches(name, allowed, n=3, cutoff=0.5), key=likeness, default=None)


def check_name(what: str, name: str, allowed: Iterable[str]) -> str:
    """Return ``name`` if it is among ``allowed``.

    Raises:
        UnknownNameError: it is not; the text offers the nearest allowed name.
    """
    names = list(allowed)
    if name not in names:
        raise UnknownNameError(what, name, names)
    return name
