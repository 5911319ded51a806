"""``model: embedded``: half a million random weights and a tokenizer, made where a run needs them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

from aster_env.envs.python_math.tasks import LEVELS, draw_problem
from aster_train.tiny.expert import read_problem, write_answer, write_call
from aster_train.tiny.model import make_model
from aster_train.tiny.tokenizer import make_tokenizer

NAME = "embedded"


def make_embedded(output_dir: str) -> str:
    """Return the folder ``output_dir/embedded``, which holds the model: the same one on every process and machine."""
    folder = Path(output_dir) / NAME
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        tokenizer = make_tokenizer(_texts(200))
        tokenizer.save_pretrained(made)
        make_model(len(tokenizer)).save_pretrained(made)
        try:
            made.rename(folder)
        except OSError:  # another process of the run was first
            shutil.rmtree(made)
    return str(folder)


def _texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(count):
        prompt, answer, _ = draw_problem(rng, "train", LEVELS[2])
        problem = read_problem(prompt)
        calls = "".join(write_call(problem, step) for step in range(len(problem.steps)))
        texts.append(f"{prompt}\n{calls}<tool_response>\n{answer}\n</tool_response>\n{write_answer(answer)}")
    return texts
