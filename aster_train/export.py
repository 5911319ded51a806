"""A run, or one of its checkpoints, as a plain ``transformers`` folder: ``python -m aster_train.export FROM TO``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from aster_env.errors import AsterError, UsageError
from aster_train.checkpoints import resume_from


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", metavar="FROM", help="a run's output_dir, or a checkpoint in it")
    parser.add_argument("target", metavar="TO", help="a folder that is not there yet")
    options = parser.parse_args()
    try:
        print(export(options.source, options.target))
    except AsterError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def export(source: str, target: str) -> str:
    """Write the model and its tokenizer to ``target``; ``from_pretrained`` needs nothing else.

    Adapters are merged into the model that they were trained on, which must still be where it was; the shards of a
    ZeRO-3 checkpoint without whole weights are put together.

    Args:
        source: the ``output_dir`` of a run (one that did not finish: its last checkpoint is taken), or a checkpoint.
        target: a folder that is not there yet.

    Returns:
        A line that says what was written.

    Raises:
        UsageError: there is no model in ``source``, or ``target`` is there already.
    """
    if Path(target).exists():
        raise UsageError(f"{target!r} is there already. Fix: name a folder that is not.")
    folder = _find(source)
    model = _load(folder)
    staged = Path(f"{Path(target)}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    model.save_pretrained(staged)
    AutoTokenizer.from_pretrained(folder).save_pretrained(staged)
    staged.rename(target)
    return f"{folder}: {model.num_parameters():,} parameters, written to {target}"


def _find(source: str) -> Path:
    last = resume_from(source)
    # A run that was finished and then went on: what its last checkpoint holds is newer.
    for folder in (last, source) if _step(last) > _step(source) else (source, last):
        if folder and any((Path(folder) / name).is_file() for name in ("config.json", "adapter_config.json")):
            return Path(folder)
    raise UsageError(f"{source!r} holds no model. Allowed: the output_dir of a run, or a checkpoint in it.")


def _step(folder: str | None) -> int:
    state = Path(folder or "") / "trainer_state.json"
    return int(json.loads(state.read_text(encoding="utf-8"))["global_step"]) if folder and state.is_file() else -1


def _load(folder: Path) -> Any:
    if (folder / "adapter_config.json").is_file():
        from peft import AutoPeftModelForCausalLM

        return AutoPeftModelForCausalLM.from_pretrained(folder, dtype="auto").merge_and_unload()
    if any(folder.glob("*.safetensors")) or not (folder / "latest").is_file():
        return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config)
    weights = get_fp32_state_dict_from_zero_checkpoint(str(folder))
    model.load_state_dict(weights, strict=not config.tie_word_embeddings)
    return model.to(config.dtype or torch.float32)


if __name__ == "__main__":
    main()
