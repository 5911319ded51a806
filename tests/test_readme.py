"""The README stays true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean

from benchmarks.kernels import report

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_ten_lines_print_what_their_comment_says():
    program = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == re.search(r"print\(.*# (.*)", program)[1]
    assert len(program.strip().splitlines()) <= 11


def test_the_demos_table_is_the_one_that_the_kept_reports_give():
    script = ROOT / "benchmarks" / "demo_table.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in README


def test_the_sessions_tables_are_those_of_the_kept_numbers():
    kept = json.loads((ROOT / "benchmarks" / "results" / "kernels.json").read_text(encoding="utf-8"))
    assert report.goals_table(kept["goals"]) in README
    assert report.contestants_table(kept) in README


def test_the_scheduling_table_is_that_of_the_kept_numbers():
    kept = json.loads((ROOT / "benchmarks" / "results" / "scheduling.json").read_text(encoding="utf-8"))
    for name, measured, goal, reached in kept["goals"]:
        assert f"| {name} | {measured} | {goal} | {'yes' if reached else 'no'} |" in README
    waits, plays = (mean(step[part] for step in kept["steps"]["aster"]) for part in ("waits turn by turn", "rollout"))
    assert f"would wait {waits:.1f} s a step" in README
    assert f"plays a whole batch in {plays:.1f} s" in README


def test_what_playing_ahead_gains_is_what_was_kept():
    kept = json.loads((ROOT / "benchmarks" / "results" / "ahead.json").read_text(encoding="utf-8"))
    assert f"{kept['ratio']:.2f} times the steps a second" in README


def test_every_file_it_names_exists():
    for name in re.findall(r"(?:aster_train|aster_env|benchmarks|envs)/[\w/]+\.(?:py|yaml)", README):
        assert (ROOT / name).is_file(), name


def test_what_shaping_does_is_what_was_kept():
    from benchmarks.shaping.report import ends, table

    report = json.loads((ROOT / "benchmarks" / "results" / "shaping.json").read_text())
    assert table(report) in (ROOT / "docs" / "shaping.md").read_text(encoding="utf-8")
    place = report["measures"].index("tokens before the first call")
    plain, aspo = (mean(ends(run)[place] for run in report["curves"][name]) for name in ("plain GRPO", "ASPO"))
    assert f"from token {plain:.1f} to {aspo:.1f}" in " ".join(README.split())


def test_the_numbers_of_retrieval_are_those_that_were_kept():
    from benchmarks.retrieval import report

    kept = json.loads((ROOT / "benchmarks" / "results" / "retrieval.json").read_text(encoding="utf-8"))
    assert report.judge(kept) == kept["goals"]
    assert report.goals_table(kept["goals"]) in README
    assert report.engines_table(kept) in README


def test_what_the_search_lesson_learned_is_what_was_kept():
    for seed in (0, 1):
        path = ROOT / "benchmarks" / "results" / f"demo_search_seed{seed}.json"
        kept = json.loads(path.read_text(encoding="utf-8"))
        for way in ("sampled", "greedy"):
            before, after = (kept[when][f"unseen {way}"]["accuracy"] for when in ("before", "after"))
            assert f"from {before:.1%} to {after:.1%}".replace("%", " %") in " ".join(README.split())
        assert all(score["accuracy"] == 0 for score in kept["controls"].values())
        assert 7.5 <= sum(kept["seconds"].values()) / 60 < 9.5


def test_the_agents_lines_play_an_episode():
    (program,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "ToolSession(" in block)
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "0.0", done.stderr


def test_every_aster_command_it_shows_has_such_options(capsys):
    from aster_env.cli import _parser

    shown = [line.split("#")[0].split() for line in README.splitlines() if line.startswith("aster ")]
    assert len(shown) > 12
    for command in shown:
        if command[1] in ("bench",) or command[-1] == "\\":
            continue
        _parser().parse_args(command[1:])


def test_the_numbers_of_load_and_web_are_those_that_were_kept():
    from benchmarks.load import report as load
    from benchmarks.web import report as web

    kept = json.loads((ROOT / "benchmarks" / "results" / "load.json").read_text(encoding="utf-8"))
    assert load.goals_table(load.judge(kept)) in README
    assert load.times_table(kept["load"]) in README
    kept = json.loads((ROOT / "benchmarks" / "results" / "web.json").read_text(encoding="utf-8"))
    assert web.goals_table(web.judge(kept)) in README


def test_the_equivalent_forms_it_counts_are_in_the_file():
    file = ROOT / "tests" / "rewards" / "equivalence_pairs.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    right = sum(len(row.get("same", ())) + len(row.get("one_way", ())) for row in rows)
    wrong = sum(len(row.get("different", ())) for row in rows)
    assert f"on {right} equivalent forms and {wrong} near misses" in " ".join(README.split())


def test_what_the_lesson_of_both_tools_taught_is_what_was_kept():
    for seed in (0, 1):
        path = ROOT / "benchmarks" / "results" / f"demo_both_seed{seed}.json"
        kept = json.loads(path.read_text(encoding="utf-8"))
        before, after = (kept[when]["unseen sampled"] for when in ("before", "after"))
        said = f"from {before['accuracy']:.1%} to {after['accuracy']:.1%} (`SEED={seed}`)".replace("%", " %")
        assert said in " ".join(README.split())
        assert after["tools"]["all and right"] == after["tools"]["right"]
        assert all(score["accuracy"] < 0.005 for score in kept["controls"].values())
        assert 33 < sum(kept["seconds"].values()) / 60 < 35.5
