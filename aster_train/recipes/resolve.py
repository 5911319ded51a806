"""Whether what a recipe names is at hand: a model's configuration, its tokenizer, its tasks. No weights are read."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aster_env.errors import AsterError, UsageError

_PATIENCE = 3.0
"""Seconds in which the hub answers, or is taken to be out of reach. Its own client tries for half a minute."""
_SAMPLE = 64
"""Tasks whose prompts are measured."""


@dataclass(frozen=True, slots=True)
class Line:
    """Something that a recipe names, what was found of it, and whether it is at hand."""

    what: str
    found: str
    here: bool = True


def hub_answers() -> bool:
    """Return whether the hub can be reached from here."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    place = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        with socket.create_connection((place.hostname or "", port), timeout=_PATIENCE):
            return True
    except OSError:
        return False


def find_folder(model: str, online: bool, after: Sequence[str] = ()) -> str:
    """Return where the configuration and the tokenizer of a model are: a folder, or a hub name.

    Args:
        model: as in a configuration.
        online: whether the hub answers.
        after: recipes that write models, for the message.

    Raises:
        UsageError: it is neither a folder here, nor in the hub's cache, nor is the hub in reach.
    """
    from aster_train.config import find_model

    if model.startswith("runs/") and not Path(model).exists():
        made = f"; {' and '.join(after)} writes it" if after else ""
        raise UsageError(f"no folder {model!r}{made}")
    found = find_model(model)
    if online or (Path(found) / "config.json").is_file():
        return found
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(found, "config.json")
    if isinstance(cached, str):
        return str(Path(cached).parent)
    raise UsageError(f"{model!r} is on the hub, which is out of reach, and not in its cache")


def load_environment(env: str, env_kwargs: Mapping[str, Any], tokenizer: Any, online: bool) -> Any:
    """Return the environment that plays the tasks of a configuration, with its tasks read.

    Args:
        env: a Gymnasium id.
        env_kwargs: of the configuration.
        tokenizer: None: the built-in one, which counts bytes.
        online: whether the hub answers.

    Raises:
        AsterError: the tasks are not here, or an argument is wrong.
    """
    import gymnasium

    import aster_env  # noqa: F401  (registers the environments)

    tasks = env_kwargs.get("tasks", "generated")
    if isinstance(tasks, str) and not online:
        check_cached(tasks, env_kwargs)
    more = {} if tokenizer is None else {"tokenizer": tokenizer}
    return gymnasium.make(env, **{**env_kwargs, **more}).unwrapped


def prompt_lengths(environment: Any) -> list[int]:
    """Return the tokens of tasks' prompts, of at most 64 spread over all, the tools' schemas and instructions included.

    Raises:
        AsterError: a prompt leaves no token to answer with.
    """
    tasks = environment.tasks
    step = max(1, len(tasks) // _SAMPLE)
    environment.check_tasks()
    return [len(environment.reset(options={"task": tasks[n]})[0]) for n in range(0, len(tasks), step)][:_SAMPLE]


def said(error: AsterError) -> str:
    """Return an error's first line, shortened."""
    text = str(error).splitlines()[0]
    return text if len(text) <= 200 else f"{text[:197]}…"


def check_cached(tasks: str, env_kwargs: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` if tasks are on the hub alone: its client would try for half a minute.

    Args:
        tasks: a preset's name, or a name on the hub.
        env_kwargs: of the configuration; ``tasks_path`` says where a preset's rows are.
    """
    from aster_env.presets import PRESETS

    preset = PRESETS.get(tasks)
    name = preset.hub if preset and env_kwargs.get("tasks_path") is None else tasks
    file = tasks.endswith((".jsonl", ".json", ".parquet"))
    if name.count("/") != 1 or file or name.startswith((".", "/", "~")):
        return
    import datasets.config
    from datasets.naming import camelcase_to_snakecase

    owner, _, own = name.partition("/")
    if not (Path(datasets.config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(own)}").is_dir():
        raise UsageError(f"{name!r} is on the hub, which is out of reach, and not in its cache")
