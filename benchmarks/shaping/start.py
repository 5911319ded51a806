"""A model to shape: the demo's, taught to think for a while before some calls, and to leave it at others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig

from aster_env.dialects import make_dialect
from aster_env.rollout import Completion, GenerateRequest, RolloutRunner
from aster_env.tokenizers import as_tokenizer
from aster_train import sft
from aster_train.config import training_arguments
from aster_train.examples import read_examples
from aster_train.tiny.coldstart import SETTINGS
from aster_train.tiny.expert import Expert, write_turn

CONFIG = Path(__file__).parents[2] / "aster_train" / "configs" / "tiny_demo.yaml"
MAX_TOKENS = 320
EPISODES, STEPS = 800, 100
LONGEST, LATER = 32, 6
"""Words of a thought at most: before the first call, and after a result."""


class Wordy(Expert):
    """The expert, who first thinks for 0 to ``LONGEST`` words, and after a result, half the time, for a few."""

    async def generate(self, request: GenerateRequest) -> Completion:
        """Write the next turn."""
        context = self.tokenizer.decode(request.ids)
        text = write_turn(context, *self._plan(request.seed))
        calls = context.count("<tool_call>")
        rng = np.random.default_rng((self.seed, request.seed, calls))
        words = int(rng.integers(1, LATER) * rng.integers(2) if calls else rng.integers(LONGEST + 1))
        thought = f"<think>{' .' * words}</think>\n" if words else ""
        return Completion(tuple(self.tokenizer.encode(thought + text)))


def make_start(model: Path, out: Path, seed: int) -> Path:
    """Teach a model to think, and save it with its tokenizer.

    Args:
        model: the demo's, after GRPO.
        out: a folder.
        seed: of the problems and the order of examples.

    Returns:
        The folder of the model.
    """
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    kwargs: dict[str, Any] = {**config["env_kwargs"], "max_tokens": MAX_TOKENS, "tokenizer": tokenizer}
    out.mkdir(parents=True, exist_ok=True)
    with RolloutRunner(config["env"], max_concurrent=16, env_kwargs=kwargs) as runner:
        env = runner.envs[0]
        tasks = [env.tasks[n] for n in range(EPISODES)]
        episodes = runner.run(Wordy(env.tokenizer, seed=seed), tasks, seed)
    lines = (json.dumps(episode.to_json()) + "\n" for episode in episodes)
    (out / "wordy.jsonl").write_text("".join(lines), encoding="utf-8")
    examples = read_examples(str(out / "wordy.jsonl"), make_dialect("hermes", as_tokenizer(tokenizer)), None)
    values = {"output_dir": str(out), "max_steps": STEPS, "learning_rate": 1e-3, "seed": seed}
    arguments = training_arguments(SFTConfig, SETTINGS, values)
    sft.train(AutoModelForCausalLM.from_pretrained(model), tokenizer, arguments, examples)
    return out
