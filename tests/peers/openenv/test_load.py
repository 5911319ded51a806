"""The report on load and faults, in small."""

from __future__ import annotations

import json

from benchmarks.load.__main__ import measure
from benchmarks.load.report import text


def test_the_report_reaches_every_goal_in_small():
    results = measure(8, 3.0, 0.2)
    assert [row["goal"] for row in results["goals"] if not row["reached"]] == [], text(results)
    json.dumps(results)
