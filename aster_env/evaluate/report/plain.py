"""The report as plain text for a terminal, and as Markdown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from aster_env.evaluate.report import tables
from aster_env.evaluate.report.tables import Summaries, Table

WIDTH = 100
_LEAST = 8


def text(summaries: Summaries) -> str:
    """Return one row a task set for a terminal of 100 columns, with the nearest published model beside.

    No colours, so that it reads the same in a file.
    """
    if not summaries:
        return "No task set was evaluated.\n"
    title = f"{tables.policies(summaries)} on {tables.environments(summaries)}"
    return "\n".join([*_wrap(title), "", _grid(tables.overview(summaries))])


def markdown(summaries: Summaries) -> str:
    """Return the report as Markdown: accuracies, budgets, tool use, ends, cost, and what the runs are made of."""
    if not summaries:
        return "# Evaluation\n\nNo task set was evaluated.\n"
    parts = [f"# Evaluation of {_escape(tables.policies(summaries))}", f"On {_escape(tables.environments(summaries))}."]
    for make in (tables.overview, tables.at_budgets, tables.passes, tables.tool_use, tables.stops, tables.usage):
        parts.append(_pipes(make(summaries)))
    made = tables.manifest(summaries)
    parts += [_pipes(made)] if made.rows else []
    return "\n\n".join(parts) + "\n"


def compare_text(found: Mapping[str, Any]) -> str:
    """Return a comparison for a terminal: the result, and the ten problems that differ most."""
    result = tables.comparison(found)
    lines = [part for name, value in result.rows for part in _wrap(f"{name}: {value}")]
    differing = tables.compared_problems(found, 10)
    return "\n".join([*lines, *(["", _grid(differing)] if differing.rows else [""])])


def compare_markdown(found: Mapping[str, Any]) -> str:
    """Return a comparison as Markdown."""
    differing = tables.compared_problems(found)
    parts = ["# Comparison", _pipes(tables.comparison(found), title=False)]
    return "\n\n".join([*parts, *([_pipes(differing)] if differing.rows else [])]) + "\n"


def _grid(table: Table) -> str:
    """Set a table in columns: where they are too wide, words are cut first, then the table is split."""
    widths = [max(map(_width, column)) for column in zip(table.header, *table.rows, strict=True)]
    gap = 2 * (len(widths) - 1)
    for column in sorted(table.words, reverse=True):
        over = sum(widths) + gap - WIDTH
        widths[column] -= max(0, min(over, widths[column] - _LEAST))
    blocks = [_block(table, widths, columns) for columns in _split(widths)]
    notes = [part for note in table.notes for part in _wrap(note)]
    return "\n\n".join([*blocks, "\n".join(notes)] if notes else blocks) + "\n"


def _split(widths: Sequence[int]) -> list[list[int]]:
    """Return which columns fit beside the first, block by block."""
    blocks, used = [[0]], widths[0]
    for column, width in enumerate(widths[1:], 1):
        if used + 2 + width > WIDTH and len(blocks[-1]) > 1:
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(column)
        used += 2 + width
    return blocks


def _block(table: Table, widths: Sequence[int], columns: Sequence[int]) -> str:
    lines = []
    for row in (table.header, *table.rows):
        cells = [_pad(row[c], widths[c], left=c in table.words) for c in columns]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _pad(cell: str, width: int, left: bool) -> str:
    while _width(cell) > width:
        cell = cell[:-2] + "…"
    blank = " " * (width - _width(cell))
    return cell + blank if left else blank + cell


def _wrap(text: str) -> list[str]:
    """Break a text into lines (textwrap counts characters, of which some are two columns wide)."""
    lines = [""]
    for word in text.split():
        # A word of a third of a line is broken anywhere.
        for n, part in enumerate([word] if _width(word) <= WIDTH // 3 else word):
            gap = " " if n == 0 and lines[-1].strip() else ""
            if _width(lines[-1] + gap + part) > WIDTH:
                lines.append("  ")
                gap = ""
            lines[-1] += gap + part
    return lines


def _width(text: str) -> int:
    """Return the columns a text takes: two for wide characters, none for marks on others."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _pipes(table: Table, *, title: bool = True) -> str:
    """Set a table as Markdown."""
    rule = ["---" if column in table.words else "---:" for column in range(len(table.header))]
    lines = ["| " + " | ".join(map(_escape, row)) + " |" for row in (table.header, *table.rows)]
    lines.insert(1, "|" + "|".join(rule) + "|")
    parts = [f"## {_escape(table.title)}"] if title else []
    return "\n\n".join([*parts, "\n".join(lines), *map(_escape, table.notes)])


def _escape(text: str) -> str:
    """Keep foreign text from being read as Markdown or HTML; underscores inside a word mean nothing."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~$#!]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", plain)
