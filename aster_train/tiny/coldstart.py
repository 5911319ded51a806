"""The cold start of the embedded model: it learns to read, then to solve cleanly, then a mixture with flaws.

A randomly initialised model must first learn to copy numbers or names out of a problem; that part is plain next-token
training on synthetic rows. What follows is the SFT of ``aster_train.sft`` on trajectories of the real environment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from trl import SFTConfig

from aster_env.dialects import make_dialect
from aster_env.rollout import RolloutRunner
from aster_env.tokenizers import as_tokenizer
from aster_env.types import Trajectory
from aster_train import sft
from aster_train.config import SFT, training_arguments
from aster_train.examples import IGNORED, Examples, read_examples
from aster_train.policies.hf import HFPolicy
from aster_train.tiny.arithmetic import LESSON as ARITHMETIC
from aster_train.tiny.lesson import Lesson, Row
from aster_train.tiny.model import make_model

READ_WELL = 0.992
CHECKED = 128
"""So many problems, solved greedily, tell how long the clean phase goes on. A model that still misreads after it keeps
doing so: neither the mixture nor GRPO mends that."""
SETTINGS: Mapping[str, Any] = {
    **SFT,
    "per_device_train_batch_size": 32,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 50,
    "adam_beta2": 0.95,
    "weight_decay": 0.01,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "logging_steps": 50,
    "disable_tqdm": True,
    "use_cpu": True,
}


def embedded_tokenizer(env: str, env_kwargs: Mapping[str, Any], seed: int, lesson: Lesson = ARITHMETIC) -> Any:
    """Return a tokenizer trained on the lesson's texts and those of 200 of the expert's episodes."""
    settings = {**env_kwargs, "tokenizer": lesson.tokenizer([]), "max_tokens": 4096}
    with RolloutRunner(env, max_concurrent=8, env_kwargs=settings) as runner:
        episodes = play_expert(runner, lesson.clean, 200, seed, lesson)
    return lesson.tokenizer([*lesson.texts(), *("".join(turn.text for turn in each.turns) for each in episodes)])


def cold_start(
    runner: RolloutRunner,
    tokenizer: Any,
    seed: int,
    out: Path,
    say: Callable[[str], None],
    lesson: Lesson = ARITHMETIC,
) -> None:
    """Make a model, train it, and save it with its tokenizer in ``out/model``.

    Args:
        runner: plays the expert's episodes, on the training tasks.
        tokenizer: see ``embedded_tokenizer``.
        seed: of the weights, the problems and the order of examples.
        out: a folder; the trajectories are kept there too.
        say: prints a line.
        lesson: what is taught.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, shares, count in (
        ("clean", lesson.clean, lesson.episodes[0]),
        ("mixture", lesson.mixture, lesson.episodes[1]),
    ):
        trajectories = play_expert(runner, shares, count, seed, lesson)
        paths[name] = out / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(t.to_json()) + "\n" for t in trajectories), encoding="utf-8")
        right = np.mean([t.reward or 0.0 for t in trajectories])
        say(f"{count} {name} trajectories through the environment, {right:.0%} of them right")
    dialect = make_dialect("hermes", as_tokenizer(tokenizer))
    model = make_model(len(tokenizer), seed)
    say(f"a model of {sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    sources = {
        name: make(dialect, np.random.default_rng((seed, n))) for n, (name, make) in enumerate(lesson.rows.items(), 1)
    }
    for name, (most, batch) in lesson.read.items():
        steps, accuracy = learn_to_read(model, sources[name], most, batch)
        say(f"{name}: {accuracy:.1%} of tokens copied right after {steps} steps")

    clean = read_examples(str(paths["clean"]), dialect, None)
    # Copying goes on beside the trajectories, two rows in five or more: else what was never seen is misread again.
    copying = [next(rows) for rows in sources.values() for _ in range(2 * len(clean.rows))]
    clean.rows = clean.rows * 6 + copying
    _learn_clean(runner, model, tokenizer, clean, out, seed, say, lesson)
    mixture = read_examples(str(paths["mixture"]), dialect, None)
    mixture.rows += [next(rows) for rows in sources.values() for _ in range(lesson.mixture_rows)]
    _fit(model, tokenizer, mixture, out, batch=32, max_steps=lesson.mixture_steps, learning_rate=1e-3, seed=seed)
    say("mixture learned")


def _learn_clean(
    runner: RolloutRunner,
    model: Any,
    tokenizer: Any,
    examples: Examples,
    out: Path,
    seed: int,
    say: Callable[[str], None],
    lesson: Lesson,
) -> None:
    first = lesson.episodes[0]
    tasks = [runner.envs[0].tasks[n] for n in range(first, first + CHECKED)]
    policy = HFPolicy(model, as_tokenizer(tokenizer), temperature=0.0)
    for number, (steps, rate) in enumerate(lesson.rounds, 1):
        _fit(
            model, tokenizer, examples, out, batch=lesson.batch, max_steps=steps, learning_rate=rate, seed=seed + number
        )
        model.eval()
        right = float(np.mean([t.reward or 0.0 for t in runner.run(policy, tasks, seed)]))
        policy.reset()
        say(f"clean trajectories, round {number}: {right:.1%} of {CHECKED} other {lesson.asked} solved greedily")
        if right >= lesson.solved_well:
            return
    say(f"the cold start ends below {lesson.solved_well:.0%}: expect less of what follows")


def learn_to_read(model: Any, rows: Iterator[Row], most: int, batch: int) -> tuple[int, float]:
    """Train on batches of rows until ``READ_WELL``; return the steps taken and the running accuracy."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    model.train()
    accuracy = 0.0
    for step in range(1, most + 1):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, step / 50)
        loss, right = _loss(model, [next(rows) for _ in range(batch)])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        accuracy = 0.9 * accuracy + 0.1 * right
        if accuracy > READ_WELL:
            break
    return step, accuracy


def play_expert(
    runner: RolloutRunner, shares: Mapping[str, float], count: int, seed: int, lesson: Lesson = ARITHMETIC
) -> list[Trajectory]:
    """Return the expert's episodes on the first ``count`` tasks."""
    env = runner.envs[0]
    return runner.run(lesson.expert(env, shares, seed), [env.tasks[n] for n in range(count)], seed)


def _fit(model: Any, tokenizer: Any, examples: Examples, out: Path, *, batch: int, **settings: Any) -> None:
    values = {"output_dir": str(out / "model"), "per_device_train_batch_size": batch, **settings}
    sft.train(model, tokenizer, training_arguments(SFTConfig, SETTINGS, values), examples)


def _loss(model: Any, rows: Sequence[Mapping[str, list[int]]]) -> tuple[torch.Tensor, float]:
    """Return the mean loss over the tokens to learn, and the share of them that were most likely."""
    ids = pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True)
    labels = pad_sequence([torch.tensor(row["labels"]) for row in rows], batch_first=True, padding_value=IGNORED)
    # Rows are padded on the right, where a causal model cannot look: no attention mask is needed.
    hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
    wanted = labels[:, 1:] != IGNORED
    logits, targets = model.lm_head(hidden[wanted]), labels[:, 1:][wanted]
    loss = torch.nn.functional.cross_entropy(logits, targets)
    return loss, float((logits.argmax(-1) == targets).float().mean())
