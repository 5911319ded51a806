"""Writing what a policy said as a turn in an environment's dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aster_env.dialects.base import Dialect, Schemas


@dataclass(frozen=True, slots=True)
class NativeCall:
    """A call as an endpoint gave it.

    Args:
        id: names the call; its result is sent with it.
        name: of the tool.
        text: the arguments, meant to be a JSON object.
    """

    id: str
    name: str
    text: str

    @property
    def arguments(self) -> dict[str, Any] | None:
        """The arguments, or None where the text is no JSON object; an empty text stands for none at all."""
        try:
            value = json.loads(self.text, strict=False) if self.text.strip() else {}
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


def encode_turn(text: str, dialect: Dialect) -> tuple[int, ...]:
    """Return a turn's ids; one that does not end with a stop string or an end-of-turn token gets the token."""
    ends = "" if text.endswith((*dialect.stop, dialect.tokenizer.end_text)) else dialect.tokenizer.end_text
    return tuple(dialect.tokenizer.encode(text + ends))


def write_call(content: str, call: NativeCall, dialect: Dialect, schemas: Schemas) -> str:
    """Return the text of a turn that says ``content`` and then makes ``call``.

    The text is chosen so that the dialect reads this very call in it, whatever the content and the arguments hold. A
    call that is not well formed, or that the dialect cannot express, is written as one that the environment refuses
    with a message for the model.
    """
    arguments = call.arguments
    if arguments is not None:
        for text in _forms(content, call.name, arguments, dialect):
            read = dialect.parse(text, schemas).call
            meant = read is not None and read.problem is None and read.name == call.name
            if read is not None and meant and _same(read.arguments, arguments):
                return text
    said = dialect.neutralize(content)
    forms = (_json_form(call.name, call.text, dialect), f"{_opening(dialect)}\n")
    refused = (said + _gap(said) + form for form in forms)
    # The last form, a call that is not closed, is refused by every dialect.
    return next((t for t in refused if (read := dialect.parse(t, schemas).call) and read.problem), said + forms[-1])


def _forms(content: str, name: str, arguments: Mapping[str, Any], dialect: Dialect) -> Iterator[str]:
    """Yield ways to write a call, the plainest first."""
    inert = dialect.neutralize(content)
    try:
        written = dialect.call(name, arguments)
    except (ValueError, TypeError):
        written = ""  # the dialect has no form for these arguments
    calls = [written, _json_form(name, arguments, dialect)]
    for form in filter(None, calls):
        for said in (content, inert):
            yield said + _gap(said) + form


def _json_form(name: str, arguments: Any, dialect: Dialect) -> str:
    """Return a call as JSON without any tag or marker in it: their first character is escaped."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False).replace("<", "\\u003c")
    return f"{_opening(dialect)}\n{body}\n{dialect.stop[0]}"


def _opening(dialect: Dialect) -> str:
    return dialect.stop[0].replace("</", "<")


def _gap(content: str) -> str:
    return "\n" if content and not content.endswith("\n") else ""


def _same(read: Mapping[str, Any], meant: Mapping[str, Any]) -> bool:
    """Whether two calls' arguments are the same, but for newlines around a text, which tags do not keep."""
    return _bare(read) == _bare(meant)


def _bare(arguments: Mapping[str, Any]) -> str:
    plain = {k: v.strip("\n") if isinstance(v, str) else v for k, v in arguments.items()}
    return json.dumps(plain, sort_keys=True)
