"""TRL's loop: ``GRPOTrainer`` with an ``environment_factory``, as TRL ships it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOTrainer
from trl.chat_template_utils import qwen3_template

from aster_env import loops
from aster_env.dialects import Dialect, make_dialect
from aster_env.dialects.base import last_boxed
from aster_env.envs.python_math.env import PythonMathEnv
from aster_env.kernels.shared import lease_pool
from aster_env.tokenizers import as_tokenizer
from aster_env.tools.python import PythonTool
from aster_env.types import Message
from aster_train.engines import prepare_vllm

from .common import MAX_CALLS, MAX_TOKENS, TIMEOUT, Clock, Slow, arguments, environment, logged

MARK = "MARK"


class Session:
    """An environment whose public method is the tool: the same tool, on the same kind of pool.

    Args:
        pool_options: of the pool.
    """

    def __init__(self, pool_options: Mapping[str, Any]) -> None:
        self._slow = loops.run(_open_tool(pool_options))

    def reset(self, task_id: str, **row: Any) -> None:
        """Start an episode; those of a batch begin in its order."""
        loops.run(self._slow.reset())
        self._slow.begin(task_id)

    def python(self, code: str) -> str:
        """Run Python code.

        Args:
            code: the code to run.
        """
        return str(loops.run(self._slow(code=code)).text)


async def _open_tool(pool_options: Mapping[str, Any]) -> Slow:
    return Slow(PythonTool(lease_pool("zygote", **pool_options), timeout=TIMEOUT))


def run(options: argparse.Namespace, out: str) -> list[dict[str, float]]:
    """Train; return what each step took."""
    prepare_vllm("float32")
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    dialect = make_dialect("hermes", as_tokenizer(tokenizer))
    # A call ends its turn, as it does in the other loop.
    ends = [tokenizer.eos_token_id, *(tokenizer.convert_tokens_to_ids(stop) for stop in dialect.stop)]
    speak_as(tokenizer, dialect)
    own = {
        "max_completion_length": MAX_TOKENS,
        "max_tool_calling_iterations": MAX_CALLS,
        "generation_kwargs": {"stop_token_ids": ends},
    }
    trainer = GRPOTrainer(
        str(options.model),
        reward_funcs=[right],
        args=arguments(options, out, **own),
        processing_class=tokenizer,
        train_dataset=rows(options),
        environment_factory=partial(Session, environment(options)["pool_options"]),
    )
    clock = Clock()
    trainer.add_callback(clock)
    clock.time(trainer, "_generate", "rollout")
    clock.time(trainer.vllm_generation, "generate", "generation")
    clock.time(Session, "python", "tools")
    trainer.train()
    for step, row in zip(clock.steps, logged(trainer), strict=True):
        step["calls"] = row["tools/call_frequency"] * options.episodes
        step["tokens"] = row["completions/mean_length"] * options.episodes
    return clock.steps


def rows(options: argparse.Namespace) -> Dataset:
    """Return the tasks as TRL takes them."""
    tasks = PythonMathEnv(**environment(options)).tasks
    prompts = [[{"role": "user", "content": task.prompt}] for task in tasks]
    answers = [task.answers[0] for task in tasks]
    return Dataset.from_dict({"prompt": prompts, "task_id": [task.id for task in tasks], "answer": answers})


def right(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
    """Reward the right answer with 1."""
    said = [last_boxed(messages[-1]["content"]) for messages in completions]
    return [float(one == wanted) for one, wanted in zip(said, answer, strict=True)]


def speak_as(tokenizer: Any, dialect: Dialect) -> None:
    """Give a tokenizer what TRL writes prompts and results with, and reads calls with; the ids are the dialect's.

    TRL appends to a call what the template writes after the end of the call's turn. Our models end that turn at
    ``</tool_call>``, so a result begins with an end of turn of its own, and ends with the beginning of the next.
    """
    asked = dialect.prompt([Message("user", MARK)], {}).partition(MARK)
    heard = dialect.observation(MARK).partition(MARK)
    tokenizer.chat_template = (
        "{%- for message in messages -%}"
        "{%- if message.role == 'assistant' -%}"
        "{{ message.content + (message.tool_calls or '') | string + eos_token }}"
        "{%- else -%}"
        f"{{%- set around = {json.dumps([heard[::2], asked[::2]])}[0 if message.role == 'tool' else 1] -%}}"
        "{{ around[0] + message.content + around[1] }}"
        "{%- endif -%}"
        "{%- endfor -%}"
    )
    header = asked[2][asked[2].rindex("<|im_start|>") :]
    tokenizer.response_template = {**qwen3_template, "start_anchor": header}
