"""A run: every sample once, whatever kills it; failures that are no wrong answers; equal runs."""

from __future__ import annotations

import asyncio
import io
import random
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from aster_env.errors import InfrastructureError, UsageError
from aster_env.evaluate import run
from aster_env.evaluate.manifest import continue_manifest
from aster_env.evaluate.records import SAMPLES, read_run, write_manifest
from aster_env.evaluate.run import evaluate
from aster_env.evaluate.settings import sample_seed
from aster_env.evaluate.statistics import summarise
from tests.evaluate.agents import settings

ROOT = Path(__file__).parents[2]
TIMES = ("started", "finished", "wall_seconds")


def play(folder, stream=None, **options):
    (found,) = asyncio.run(evaluate(settings(**options), folder, stream or io.StringIO()))
    return read_run(found, turns=True)


def untimed(value):
    """A value without its timings."""
    if isinstance(value, dict):
        return {name: untimed(part) for name, part in value.items() if name not in (*TIMES, "seconds")}
    return [untimed(part) for part in value] if isinstance(value, list) else value


def rows(found):
    return sorted((untimed(asdict(sample)) for sample in found.samples), key=lambda row: (row["task"], row["sample"]))


def lines(folder):
    return (folder / SAMPLES).read_bytes().count(b"\n")


def test_every_task_has_its_samples_each_with_a_seed_of_its_own(tmp_path):
    found = play(tmp_path, k=3)
    assert [s.key for s in sorted(found.samples, key=lambda s: s.key)] == [
        (f"t{t}", n) for t in range(6) for n in range(3)
    ]
    assert len({s.seed for s in found.samples}) == 18
    assert found.manifest["finished"]


def test_a_seed_is_made_of_the_seed_the_task_and_the_number_alone():
    seeds = {sample_seed(s, t, n) for s in range(5) for t in ("a", "b", "a1", "\ud800") for n in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert sample_seed(0, "a", 0) == 1766903366  # a resumed run depends on it


def test_two_runs_differ_in_nothing_but_times_whatever_the_concurrency(tmp_path):
    a = play(tmp_path / "a", k=3, concurrency=1)
    b = play(tmp_path / "b", k=3, concurrency=16, function="slow")
    assert [s.key for s in a.samples] != [s.key for s in b.samples]
    assert rows(a) == rows(b)
    c = play(tmp_path / "c", k=3, concurrency=7)
    assert untimed(a.manifest) == untimed(c.manifest)
    assert untimed(summarise(a)["per_problem"]) == untimed(summarise(c)["per_problem"])


def test_another_seed_gives_other_samples(tmp_path):
    assert rows(play(tmp_path / "a")) != rows(play(tmp_path / "b", seed=1))


def test_a_run_killed_again_and_again_repeats_and_loses_no_sample(tmp_path):
    options = {"function": "slow", "k": 8, "concurrency": 3}
    whole = play(tmp_path / "whole", **options)
    code = (
        "import asyncio, sys; from tests.evaluate.agents import settings; from aster_env.evaluate.run import evaluate\n"
        f"asyncio.run(evaluate(settings(**{options!r}), sys.argv[1]))"
    )
    command, folder, rng, kept = (
        [sys.executable, "-c", code, str(tmp_path / "killed")],
        tmp_path / "killed",
        random.Random(0),
        [],
    )
    for _ in range(4):
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            goal = (kept[-1] if kept else 0) + rng.randrange(1, 9)
            while process.poll() is None and not ((folder / SAMPLES).exists() and lines(folder) >= goal):
                time.sleep(0.002)  # polling; a process that never gets there ends, and the counts below say so
            time.sleep(rng.random() / 30)  # any moment will do: in the middle of a line, too
            process.kill()
        kept.append(lines(folder))
    assert 0 < kept[0] < kept[-1] < 48, "it was killed on its way"
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    found = read_run(folder, turns=True)
    assert lines(folder) == len(found.samples) == 48  # none twice
    assert rows(found) == rows(whole)
    assert untimed(found.manifest) == untimed(whole.manifest)


def test_a_finished_run_plays_nothing_again_and_needs_no_policy(tmp_path, monkeypatch):
    play(tmp_path)

    async def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(run, "open_policy", refuse)
    assert len(play(tmp_path).samples) == lines(tmp_path) == 6


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"k": 2}, "another k: was 1, is 2"),
        ({"seed": 3}, "another seed: was 0, is 3"),
        ({"function": "slow"}, "another policy.model: was 'tests.evaluate.agents:by_seed'"),
        ({"max_tokens": 9000}, "another max_tokens: was 32768, is 9000"),
        ({"env_kwargs": {"size": 7}}, "another env_kwargs.size: was None, is 7"),
        ({"limit": 2}, "another limit: was None, is 2"),
    ],
)
def test_a_run_goes_on_with_the_same_settings_only(tmp_path, change, named):
    play(tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(UsageError, match=named) as error:
        play(tmp_path, **change)
    assert "Fix: " in str(error.value)
    assert (tmp_path / "run.json").read_bytes() == before


def test_how_fast_it_goes_may_change(tmp_path):
    play(tmp_path)
    play(tmp_path, concurrency=1, attempts=1)


def test_a_policy_that_says_of_itself_that_it_is_another_is_refused(tmp_path):
    found = play(tmp_path).manifest
    found["policy"] = {"kind": "transformers", "weights": "aa", "options": {"max_batch": 1}, "estimated": True}
    same = {**found, "policy": {"kind": "transformers", "weights": "aa", "options": {"max_batch": 2}}}
    assert continue_manifest(found, same, tmp_path)["policy"]["estimated"]
    with pytest.raises(UsageError, match=r"another policy\.weights: was 'aa', is 'bb'"):
        continue_manifest(found, {**same, "policy": {**same["policy"], "weights": "bb"}}, tmp_path)


def test_a_sample_that_fails_outside_the_model_has_no_score_and_is_played_when_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PAUSE", 0.001)
    monkeypatch.setenv("FLAKY_UP", str(tmp_path / "up"))
    options = {"function": "flaky", "k": 2, "attempts": 2}
    found = play(tmp_path / "run", **options)
    failed = [s for s in found.samples if s.score is None]
    assert {s.key for s in failed} == {("t1", 0), ("t1", 1)}
    assert "the endpoint answered 503" in failed[0].trajectory["error"]
    assert (summarise(found)["failed"], summarise(found)["samples"]) == (2, 10)
    (tmp_path / "up").touch()
    again = play(tmp_path / "run", **options)
    assert (summarise(again)["failed"], summarise(again)["samples"]) == (0, 12)
    assert rows(again)[2:4] != rows(found)[2:4]
    assert [r for r in rows(again) if r["task"] != "t1"] == [r for r in rows(found) if r["task"] != "t1"]


def test_a_failed_sample_is_played_as_often_as_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PAUSE", 0.001)
    played = []
    once = run.play

    async def counted(env, policy, task, **options):
        played.append((task.id, options["seed"]))
        return await once(env, policy, task, **options)

    monkeypatch.setattr(run, "play", counted)
    play(tmp_path, function="down", limit=2, attempts=3)
    assert sorted(played) == sorted([(t, sample_seed(0, t, 0)) for t in ("t0", "t1") for _ in range(3)])


def test_a_run_in_which_nothing_succeeds_stops_and_says_why(tmp_path):
    with pytest.raises(InfrastructureError, match=r"20 samples in a row failed.*503.*Nothing is lost"):
        play(tmp_path, function="down", k=16, attempts=1, concurrency=4)
    assert 20 <= len(read_run(tmp_path).samples) < 26
    assert read_run(tmp_path).manifest["finished"] is None


def test_a_session_that_cannot_start_is_a_failure_and_no_wrong_answer(tmp_path, monkeypatch):
    from tests.support import EchoTool

    async def fail(self):
        raise InfrastructureError("no session")

    monkeypatch.setattr(EchoTool, "reset", fail)
    found = play(tmp_path, limit=2, attempts=1)
    assert [s.score for s in found.samples] == [None, None]
    assert "no session" in found.samples[0].trajectory["error"]


def test_a_mistake_of_the_policys_author_is_raised_as_it_is(tmp_path):
    with pytest.raises(IndexError) as caught:
        play(tmp_path, function="broken")
    assert caught.value.__notes__ == ["The policy's function broken raised it."]
    assert lines(tmp_path) == 0


def test_an_episode_ends_when_its_time_is_up(tmp_path):
    found = play(tmp_path, function="hanging", max_seconds=0.1, limit=2)
    assert [(s.stop, s.score) for s in found.samples] == [("max_seconds", 0.0)] * 2


def test_a_prompt_without_room_for_an_answer_is_told_before_anything_is_played(tmp_path):
    with pytest.raises(UsageError, match="prompt"):
        play(tmp_path, max_tokens=50)
    assert lines(tmp_path) == 0


def test_what_cannot_work_is_told_before_the_folder_is_made(tmp_path):
    folder = tmp_path / "run"
    for options in ({"task_ids": ("t77",)}, {"env_kwargs": {"sise": 3}}, {"environment": "ASTER/PythonMaths-v0"}):
        with pytest.raises(UsageError):
            play(folder, **options)
    with pytest.raises(UsageError, match="Did you mean 'by_seed'"):
        play(folder, function="by_sed")
    assert not folder.exists()


def test_task_ids_and_a_limit_choose_tasks(tmp_path):
    found = play(tmp_path, task_ids=("t4", "t2", "t0"), limit=2)
    assert {s.task for s in found.samples} == {"t4", "t2"}
    assert found.manifest["tasks"]["count"] == 2


def test_several_task_sets_have_a_folder_each(tmp_path):
    rows = '{"id": "x", "prompt": "What is 21 + 21?", "answer": "42"}\n'
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text(rows)
    wanted = settings("uses_python", "ASTER/PythonMath-v0", k=2)
    sets = tuple(str(tmp_path / f"{name}.jsonl") for name in ("one", "two"))
    folders = asyncio.run(evaluate(replace(wanted, tasks=sets), tmp_path / "out", io.StringIO()))
    assert [folder.name for folder in folders] == ["one", "two"]
    for folder in folders:
        found = read_run(folder, turns=True)
        assert [(s.score, s.answer, s.calls["ok"]) for s in found.samples] == [(1.0, "42", 1)] * 2
        assert found.manifest["tasks"]["name"] == folder.name


def test_progress_says_how_far_and_how_good(tmp_path):
    stream = io.StringIO()
    play(tmp_path, stream, k=2)
    assert stream.getvalue().startswith("tasks  12/12  avg ")
    assert "samples/s" in stream.getvalue()


def test_a_run_killed_after_its_last_sample_is_finished_without_playing(tmp_path):
    found = play(tmp_path)
    write_manifest(tmp_path, {**found.manifest, "finished": None})
    assert play(tmp_path).manifest["finished"]
    assert lines(tmp_path) == 6


def test_samples_of_nobody_knows_what_are_not_taken_for_a_run(tmp_path):
    play(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(UsageError, match="no manifest"):
        play(tmp_path, k=2)
