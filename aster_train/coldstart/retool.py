"""ReTool's SFT data as conversations with calls: ``python -m aster_train.coldstart.retool SOURCE TARGET``.

ReTool (arXiv:2504.11536) writes one long answer: Python in ``<code>``, what it printed in ``<interpreter>``, and the
result in ``<answer>``. Here each block becomes a call and its result, so that any dialect can write them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aster_env.errors import AsterError, UsageError
from aster_env.rows import read_file

_BLOCK = re.compile(
    r"<code>\s*(?:```(?:python|py)?[ \t]*\n)?(?P<code>.*?)(?:\n?```)?\s*</code>\s*"
    r"<interpreter>\n?(?P<result>.*?)\n?</interpreter>",
    re.DOTALL,
)
_TAG = re.compile(r"</?(?:code|interpreter)>")
_ANSWER = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)
_QUESTION = re.compile(r"\*user question:\*\s*(.*?)\s*(?:Remember to place the final answer.*)?\Z", re.DOTALL)
Row = Mapping[str, Any]


def rewrite(row: Row, tool: str = "python") -> dict[str, Any]:
    """Return a row of ReTool's as ``messages`` with ``tool_calls`` and results, as ``aster_train.sft`` reads them.

    The question is freed of the instructions around it, where it is marked, for they describe tags that are no longer
    there.

    Args:
        row: ``messages`` of a user and an assistant, in that order.
        tool: the name that the calls get.

    Raises:
        ValueError: it is no such row, it has a tag without its partner, or a tag within code or a result.
    """
    asked, said = _contents(row)
    question = _QUESTION.search(asked)
    written: list[dict[str, Any]] = [{"role": "user", "content": question[1] if question else asked}]
    at = 0
    for block in _BLOCK.finditer(said):
        for part in ("code", "result"):
            _check(block[part], f"in the {part} of a block")
        call = {"type": "function", "function": {"name": tool, "arguments": {"code": block["code"].strip("\n")}}}
        written.append({"role": "assistant", "content": _text(said[at : block.start()]), "tool_calls": [call]})
        written.append({"role": "tool", "content": block["result"]})
        at = block.end()
    written.append({"role": "assistant", "content": _text(said[at:])})
    return {"messages": written}


def rewrite_all(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows that could be rewritten, and for each other one which it is and what is wrong with it."""
    kept, left = [], []
    for number, row in enumerate(rows, 1):
        try:
            kept.append(rewrite(row))
        except ValueError as error:
            left.append(f"row {number}: {error}")
    return kept, left


def _contents(row: Row) -> list[str]:
    """Return what the user asked and what the assistant said."""
    messages = row.get("messages") if isinstance(row, Mapping) else None
    if not isinstance(messages, Sequence):
        raise ValueError("it has no list 'messages'")
    for number, message in enumerate(messages, 1):
        for key in ("role", "content"):
            if not isinstance(message, Mapping) or not isinstance(message.get(key), str):
                raise ValueError(f"its message {number} has no text in {key!r}")
    if [message["role"] for message in messages] != ["user", "assistant"]:
        raise ValueError("its 'messages' are not one of a user and one of an assistant")
    return [message["content"] for message in messages]


def _text(text: str) -> str:
    _check(text, "without its partner")
    return _ANSWER.sub(r"\1", text).strip()


def _check(text: str, where: str) -> None:
    """Raise on a tag: a block that lacks its result runs on into the next, and a result may be opened twice."""
    stray = _TAG.search(text)
    if stray is not None:
        raise ValueError(f"it has a {stray[0]} {where}")


def main(arguments: Sequence[str]) -> None:
    """Rewrite a file.

    Raises:
        UsageError: it cannot be read, or holds no row of this form.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="ReTool-SFT as .parquet, .jsonl or .json")
    parser.add_argument("target", type=Path, help="a .jsonl file for aster_train/sft.py")
    options = parser.parse_args(list(arguments))
    kept, left = rewrite_all(read_file(options.source))
    if not kept:
        raise UsageError(f"{options.source} holds no row of ReTool's form; {left[0] if left else 'it is empty'}.")
    options.target.parent.mkdir(parents=True, exist_ok=True)
    options.target.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    calls = sum("tool_calls" in message for row in kept for message in row["messages"])
    print(f"{len(kept)} conversations with {calls} calls written; {len(left)} rows left out. {' '.join(left[:3])}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except AsterError as error:
        sys.exit(f"{type(error).__name__}: {error}")
