"""What a kernel's messages say of one execution, bounded whatever the kernel sends (Jupyter messaging, 5.4)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aster_env.kernels.base import Cell

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]")


def execute_content(code: str) -> dict[str, Any]:
    """Return the content of an ``execute_request``."""
    return {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": False,
    }


@dataclass(slots=True)
class Output:
    """What one execution sent so far.

    Args:
        limit: characters kept in all; what comes after is counted and dropped.
    """

    limit: int = 1 << 21
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    value: str | None = None
    error: str | None = None
    ok: bool = True
    truncated: int = 0
    _kept: int = 0

    def add(self, kind: str, content: Mapping[str, Any]) -> bool:
        """Add one iopub message of the running cell; True when it says that the cell is over.

        A message that is not of the protocol's form (the sender may be hostile) adds nothing.
        """
        if kind == "stream":
            stream = self.stderr if content.get("name") == "stderr" else self.stdout
            stream.append(self._keep(content.get("text")))
        elif kind == "execute_result":
            self.value = self._keep(_plain(content))
        elif kind == "display_data":
            self.stdout.append(self._keep(_plain(content)) + "\n")
        elif kind == "error":
            lines = content.get("traceback")
            text = "\n".join(line for line in lines if isinstance(line, str)) if isinstance(lines, list) else ""
            self.error, self.ok = self._keep(_ESCAPES.sub("", text) or _named(content)), False
        elif kind == "aster_dropped" and isinstance(dropped := content.get("characters"), int) and dropped > 0:
            self.truncated += dropped
        return kind == "status" and content.get("execution_state") == "idle"

    def cell(self, seconds: float, *, timed_out: bool = False) -> Cell:
        """Return the finished cell, its session alive."""
        return Cell(
            stdout="".join(self.stdout),
            stderr="".join(self.stderr),
            value=self.value,
            error=self.error,
            seconds=seconds,
            truncated=self.truncated,
            timed_out=timed_out,
        )

    def _keep(self, text: object) -> str:
        if not isinstance(text, str):
            return ""
        kept = text[: max(0, self.limit - self._kept)]
        self._kept += len(kept)
        self.truncated += len(text) - len(kept)
        # Half a surrogate pair is no text: nothing after here could encode it.
        return kept if kept.isascii() else kept.encode("utf-8", "replace").decode()


def parse_json(text: str | bytes) -> Any:
    """Parse JSON of a sender that may be hostile.

    Raises:
        ValueError: it is no JSON; nested too deep counts as that.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error


def _plain(content: Mapping[str, Any]) -> object:
    data = content.get("data")
    return data.get("text/plain") if isinstance(data, dict) else None


def _named(content: Mapping[str, Any]) -> str:
    return f"{content.get('ename', 'Error')}: {content.get('evalue', '')}"
