"""``make demo``, ``demo-search`` and ``demo-both``: cold start, evaluation, GRPO, evaluation, controls; a report.

It takes minutes on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from aster_env.rollout import RolloutRunner
from aster_env.tokenizers import as_tokenizer
from aster_env.types import Trajectory
from aster_train import grpo
from aster_train.metrics import describe, summarize
from aster_train.policies.hf import HFPolicy
from aster_train.tiny import arithmetic, both, search
from aster_train.tiny.coldstart import cold_start, embedded_tokenizer
from aster_train.tiny.lesson import Lesson
from aster_train.tiny.report import interval, markdown, picture
from aster_train.watch import read_warnings

LESSONS = {"arithmetic": arithmetic.LESSON, "search": search.LESSON, "both": both.LESSON}
PROBLEMS = 256
Score = dict[str, Any]


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lesson", choices=LESSONS, default="arithmetic", help="what is taught")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the problems and the sampling")
    parser.add_argument("--out", type=Path, help="a folder (runs/demo, …); what an earlier demo left goes")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of the cold start")
    options = parser.parse_args()
    out = options.out or Path("runs/demo" if options.lesson == "arithmetic" else f"runs/demo-{options.lesson}")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    run(options.seed, out, options.threads, LESSONS[options.lesson])


def run(seed: int, out: Path, threads: int = 1, lesson: Lesson = arithmetic.LESSON) -> dict[str, Any]:
    """Run the demo and return its report, which is also written to ``out``.

    Args:
        seed: of the weights, the problems and the sampling.
        out: a folder.
        threads: of the cold start's large batches; what comes after samples a few tokens at a time, and one is faster.
        lesson: what is taught.
    """
    for name in ("coldstart", "grpo"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    say, seconds = _clock()
    config = yaml.safe_load(lesson.config.read_text(encoding="utf-8"))
    train_kwargs = {**config["env_kwargs"], "task_options": {**config["env_kwargs"]["task_options"], "seed": seed}}

    torch.set_num_threads(threads)
    with _stage("cold start", say, seconds):
        tokenizer = embedded_tokenizer(config["env"], train_kwargs, seed, lesson)
        with RolloutRunner(
            config["env"], max_concurrent=16, env_kwargs={**train_kwargs, "tokenizer": tokenizer}
        ) as runner:
            cold_start(runner, tokenizer, seed, out / "coldstart", say, lesson)
    torch.set_num_threads(1)
    before_model, after_model = out / "coldstart" / "model", out / "grpo"
    with _stage("evaluation before", say, seconds):
        before = evaluate(config["env"], train_kwargs, before_model, seed, say, lesson)
    with _stage("GRPO", say, seconds):
        grpo.main(_grpo_arguments(lesson, seed, before_model, after_model))
    with _stage("evaluation after", say, seconds):
        after = evaluate(config["env"], train_kwargs, after_model, seed, say, lesson)
    with _stage("controls", say, seconds):
        controls = evaluate_controls(config["env"], train_kwargs, after_model, seed, say, lesson)

    log = json.loads((after_model / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    report = {"seed": seed, "before": before, "after": after, "controls": controls, "seconds": seconds, "log": log}
    report |= {name: getattr(lesson, name) for name in ("title", "asked", "splits", "held_out", "tools")}
    report["collapse"] = read_warnings(after_model)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (out / "report.md").write_text(markdown(report), encoding="utf-8")
    picture(report, out / "curves.png")
    print("\n" + markdown(report))
    print(f"Written: {out / 'report.md'}, {out / 'curves.png'}, {out / 'report.json'}")
    return report


def evaluate(
    env: str, env_kwargs: Mapping[str, Any], model: Path, seed: int, say: Callable[[str], None], lesson: Lesson
) -> dict[str, Score]:
    """Return the scores on each of the lesson's splits, sampled at temperature 1 and greedily."""
    scores = {}
    for split in lesson.splits:
        with _runner(env, env_kwargs, model, split) as runner:
            for name, temperature in (("sampled", 1.0), ("greedy", 0.0)):
                scores[f"{split} {name}"] = _score(runner, model, temperature, seed, lesson)
                say(_line(f"{split}, {name}", scores[f"{split} {name}"]))
    return scores


def evaluate_controls(
    env: str, env_kwargs: Mapping[str, Any], model: Path, seed: int, say: Callable[[str], None], lesson: Lesson
) -> dict[str, Score]:
    """Return the scores on held-out tasks, sampled, with each of the lesson's controls."""
    scores = {}
    for name, make in lesson.controls(env_kwargs).items():
        replaced = make()
        with _runner(env, {**env_kwargs, **replaced}, model, lesson.held_out) as runner:
            try:
                scores[name] = _score(runner, model, 1.0, seed, lesson)
            finally:
                for argument in replaced.values():
                    if hasattr(argument, "close"):
                        runner.call(argument.close)
        say(_line(name, scores[name]))
    return scores


def _runner(env: str, env_kwargs: Mapping[str, Any], model: Path, split: str) -> RolloutRunner:
    # The problems of an evaluation are the same for every seed of the demo.
    changed = {"split": split, "task_options": {**env_kwargs["task_options"], "size": PROBLEMS, "seed": 0}}
    tokenizer = AutoTokenizer.from_pretrained(model)
    return RolloutRunner(env, max_concurrent=32, env_kwargs={**env_kwargs, **changed, "tokenizer": tokenizer})


def _score(runner: RolloutRunner, model: Path, temperature: float, seed: int, lesson: Lesson) -> Score:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = as_tokenizer(AutoTokenizer.from_pretrained(model))
    policy = HFPolicy(loaded, tokenizer, temperature=temperature, seed=seed)
    trajectories = runner.run(policy, list(runner.envs[0].tasks), seed)
    summary = summarize([describe(t) for t in trajectories])
    right, count = sum(t.reward == 1.0 for t in trajectories), sum(t.reward is not None for t in trajectories)
    return {
        "accuracy": right / count,
        "interval": interval(right, count),
        "episodes": count,
        "calls": summary["tools/calls_mean"],
        "errors": summary["tools/error_ratio"],
        **({"tools": _count_tools(trajectories, lesson.tools)} if lesson.tools else {}),
    }


def _count_tools(trajectories: Sequence[Trajectory], tools: Sequence[str]) -> dict[str, int]:
    """Return how many episodes executed all of the tools, how many are right, and how many are both."""
    whole = [executed(trajectory).issuperset(tools) for trajectory in trajectories]
    right = [trajectory.reward == 1.0 for trajectory in trajectories]
    return {"all": sum(whole), "right": sum(right), "all and right": sum(map(all, zip(whole, right, strict=True)))}


def executed(trajectory: Trajectory) -> set[str]:
    """Return the tools that an episode executed: a call past a limit has no result, one that is refused a problem."""
    turns = pairwise(trajectory.turns)
    return {call.name for turn, after in turns if after.results for call in turn.calls if call.problem is None}


def _grpo_arguments(lesson: Lesson, seed: int, model: Path, out: Path) -> list[str]:
    values = {
        "model": model,
        "env_kwargs.task_options.seed": seed,
        "train.seed": seed,
        "train.output_dir": out,
    }
    return [
        "--config",
        str(lesson.config),
        *(part for key, value in values.items() for part in (f"--{key}", str(value))),
    ]


def _line(name: str, score: Score) -> str:
    low, high = score["interval"]
    return f"{name}: {score['accuracy']:.1%} ({low:.1%} to {high:.1%}), {score['calls']:.2f} calls an episode"


def _clock() -> tuple[Callable[[str], None], dict[str, float]]:
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:4.0f} s] {text}", flush=True)

    return say, {}


@contextmanager
def _stage(name: str, say: Callable[[str], None], seconds: dict[str, float]) -> Iterator[None]:
    started, cpu = time.perf_counter(), time.process_time()
    say(f"{name} …")
    yield
    seconds[name] = time.perf_counter() - started
    say(f"{name}: {seconds[name]:.0f} s, {time.process_time() - cpu:.0f} s of CPU in this process")


if __name__ == "__main__":
    main()
