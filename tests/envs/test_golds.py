"""Answers in the forms of AIME, GSM8K and MATH, through the environment: golds score 1, wrong and empty ones 0."""

from __future__ import annotations

import json

import pytest

from aster_env.envs.python_math.env import PythonMathEnv

AIME = [
    ("204", ["204", "204.", "\\text{204}"], "205"),
    ("073", ["073", "73"], "37"),
    ("0", ["0", "000"], "1"),
]
GSM8K = [
    ("She sells 16 - 3 = <<16-3=13>>13 eggs.\n#### 18", ["18", "\\$18", "18.00"], "81"),
    ("It costs $70,000 in all.\n#### 70,000", ["70000", "70,000", "\\$70{,}000"], "7000"),
    ("He lost money.\n#### -5", ["-5", "- 5"], "5"),
]
MATH = [
    ("\\frac{14}{3}", ["\\frac{14}{3}", "\\dfrac{14}{3}", "14/3", "4\\frac{2}{3}"], "\\frac{3}{14}"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", ["\\left( 3, \\frac{\\pi}{2} \\right)", "(3, \\pi/2)"], "(\\pi/2, 3)"),
    ("p - q", ["p - q", "-q + p"], "q - p"),
    ("11\\sqrt2", ["11\\sqrt2", "11\\sqrt{2}", "\\sqrt{242}"], "12\\sqrt2"),
    ("\\text{Evelyn}", ["\\text{Evelyn}", "Evelyn"], "\\text{Carla}"),
    ("\\text{(C)}", ["\\text{(C)}", "C"], "\\text{(D)}"),
    ("4210_{5}", ["4210_{5}", "4210_5"], "4211_5"),
    ("[-2,7]", ["[-2,7]", "[-2, 7]"], "[-2,6]"),
    ("(-\\infty, 2) \\cup (3, \\infty)", ["(-\\infty,2)\\cup(3,\\infty)"], "(-\\infty,2)"),
    ("6 - 5i", ["6 - 5i", "6-5i"], "6+5i"),
    ("x^3+3x-6", ["x^3+3x-6", "3x + x^3 - 6"], "x^3+3x+6"),
    ("10\\%", ["10\\%", "10"], "20\\%"),
    ("90^\\circ", ["90^\\circ", "90"], "80"),
    ("\\$32,\\!348", ["32348", "\\$32,348"], "32,349"),
    (
        "\\begin{pmatrix} -1 & 0 \\\\ 0 & -1 \\end{pmatrix}",
        ["\\begin{pmatrix} -1 & 0 \\\\ 0 & -1 \\end{pmatrix}"],
        "\\begin{pmatrix} 1 & 0 \\\\ 0 & 1 \\end{pmatrix}",
    ),
    ("1,-2", ["1,-2", "-2, 1"], "1,2"),
    ("y = 2x + 3", ["y = 2x + 3", "y=2x+3"], "y = 3x + 2"),
]


def row(preset, number, gold):
    if preset == "gsm8k":
        return {"question": f"Question {number}?", "answer": gold}
    return {"problem": f"Question {number}?", "answer": gold, "id": number, "unique_id": f"test/algebra/{number}.json"}


@pytest.mark.parametrize(("preset", "golds"), [("aime24", AIME), ("gsm8k", GSM8K), ("math500", MATH)])
def test_golds_score_one_in_every_usual_writing_and_wrong_and_empty_answers_zero(tmp_path, preset, golds):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row(preset, n, gold)) + "\n" for n, (gold, _, _) in enumerate(golds)))
    env = PythonMathEnv(tasks=preset, tasks_path=str(path), view="text")

    def score(task, said):
        env.reset(options={"task_id": task.id})
        return env.step(said)[1]

    wrongly = []
    for task, (_, right, wrong) in zip(env.tasks, golds, strict=True):
        expected = {f"So it is \\boxed{{{answer}}}.": 1.0 for answer in (*task.answers, *right)}
        expected |= {f"\\boxed{{{wrong}}}": 0.0, "\\boxed{}": 0.0, "\\boxed{ }": 0.0, "No idea.": 0.0, "": 0.0}
        wrongly += [(task.answers, said) for said, value in expected.items() if score(task, said) != value]
    env.close()
    assert not wrongly
