"""The report as one HTML page that needs nothing else: no script, no request, plots inline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aster_env.evaluate.report import charts, models, tables
from aster_env.evaluate.report.style import STYLE
from aster_env.evaluate.report.svg import Plot, element, escape
from aster_env.evaluate.report.tables import Summaries, Table

# What the page may not do is also told to the browser: were something not escaped, it could still not run or load.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def html(summaries: Summaries) -> str:
    """Return the report as a page: tables, plots beside the published numbers, problems, what the runs are made of."""
    title = f"Evaluation of {tables.policies(summaries)}"
    if not summaries:
        return page("Evaluation", [element("p", "No task set was evaluated.")])
    parts = [
        element("p", escape(f"On {tables.environments(summaries)}.")),
        grid(tables.overview(summaries)),
        figures([models.side_by_side(summaries)]),
        grid(tables.at_budgets(summaries)),
        figures([models.radar(summaries)]),
        *(grid(make(summaries)) for make in (tables.passes, tables.tool_use, tables.stops, tables.usage)),
    ]
    for summary in summaries:
        parts.append(_section(summary, summaries))
    return page(title, [*parts, grid(tables.manifest(summaries), folded=True)])


def page(title: str, parts: Sequence[str]) -> str:
    """Return a whole page around finished parts."""
    head = (
        '<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        + element("title", escape(title))
        + element("style", STYLE)
    )
    body = element("main", element("h1", escape(title)), *parts)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def figures(plots: Sequence[Plot | None]) -> str:
    """Return plots as figures, each with its name and description below; those that are None are left out."""
    made = [
        element(
            "figure",
            plot.svg(),
            element("figcaption", element("b", escape(plot.title)), ". ", escape(plot.caption or plot.description)),
            class_="wide" if plot.width > 600 else "",
        )
        for plot in plots
        if plot is not None
    ]
    return element("div", *made, class_="figures") + "\n" if made else ""


def grid(table: Table, *, folded: bool = False) -> str:
    """Return a table; ``folded`` ones open when asked."""
    if not table.rows:
        return ""
    head = element(
        "tr", *(element("th", _cell(name), scope="col", class_=_side(table, n)) for n, name in enumerate(table.header))
    )
    rows = [
        element(
            "tr",
            element("th", _cell(row[0]), scope="row"),
            *(element("td", _cell(cell), class_=_side(table, n)) for n, cell in enumerate(row[1:], 1)),
        )
        for row in table.rows
    ]
    caption = element("caption", escape(table.title))
    whole = element("table", caption, element("thead", head), element("tbody", *rows))
    notes = [element("p", _cell(note), class_="note") for note in table.notes]
    box = element("div", whole, *notes, class_="scroll", tabindex=0) + "\n"
    return element("details", element("summary", escape(table.title)), box) + "\n" if folded else box


def _section(summary: Mapping[str, Any], summaries: Summaries) -> str:
    plots = [
        charts.problems(summary),
        *(charts.against(summary, unit) for unit in ("tokens", "tool_calls", "seconds")),
        charts.stopped(summary),
        charts.calls(summary),
        charts.calls_and_accuracy(summary),
        charts.outcomes(summary),
    ]
    return element(
        "section",
        element("h2", _cell(tables.label(summary, summaries))),
        element("p", escape(charts.headline(summary))),
        figures(plots),
        grid(tables.problems(summary), folded=True),
    )


def _cell(text: str) -> str:
    """Set foreign text apart, so that words written from right to left do not reorder what is around them."""
    return element("bdi", escape(text)) if not text.isascii() else escape(text)


def _side(table: Table, column: int) -> str:
    return "words" if column in table.words else ""
