"""The report of an evaluation: for a terminal, as JSON, as Markdown, and as one HTML page with plots.

Each form takes the summaries of ``aster_env.evaluate.statistics.summarise``, one a task set; each is a function of them
alone, so that equal runs give equal bytes. Published numbers stand beside those of the same task set and protocol
(``published``). Task ids, answers and names of models are foreign text: shown, never obeyed.
"""

from aster_env.evaluate.report.comparing import compare_html
from aster_env.evaluate.report.page import html
from aster_env.evaluate.report.plain import compare_markdown, compare_text, markdown, text
from aster_env.evaluate.report.writing import as_json, write, write_comparison

__all__ = [
    "as_json",
    "compare_html",
    "compare_markdown",
    "compare_text",
    "html",
    "markdown",
    "text",
    "write",
    "write_comparison",
]
