"""Multi-turn SFT on trajectories: ``accelerate launch aster_train/sft.py --config FILE [--key value …]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from accelerate import PartialState
from trl import SFTConfig, SFTTrainer

from aster_env.dialects import make_dialect
from aster_env.errors import AsterError
from aster_env.tokenizers import as_tokenizer
from aster_train import engines
from aster_train.checkpoints import WholeCheckpoints, is_finished, resume_together
from aster_train.config import (
    SFT,
    SFTSettings,
    find_model,
    load_tokenizer,
    lora_config,
    read_settings,
    training_arguments,
)
from aster_train.conversations import tool_schemas
from aster_train.examples import Examples, read_examples
from aster_train.progress import show_progress


def main(arguments: Sequence[str]) -> None:
    """Train as configured, going on from the last checkpoint in ``output_dir``, and save the model there.

    Raises:
        UsageError: the configuration or the data are wrong; said before a model is loaded.
    """
    settings = read_settings(SFTSettings, arguments, __doc__ or "", SFTConfig)
    engines.prepare()
    model = find_model(settings.model, settings.train.get("output_dir"))
    args = training_arguments(SFTConfig, SFT, settings.train)
    checkpoint = resume_together(args.output_dir)
    if is_finished(checkpoint, args):
        print(f"This run is finished; {checkpoint} holds its model. Fix: raise train.max_steps to go on.")
        return
    tokenizer = load_tokenizer(model)
    dialect = make_dialect(settings.dialect, as_tokenizer(tokenizer))
    schemas = tool_schemas(settings.env, settings.env_kwargs, dialect) if settings.env else {}
    examples = read_examples(settings.data, dialect, args.max_length, schemas)
    if args.process_index == 0:
        print(examples.report())
    train(model, tokenizer, args, examples, lora_config(settings.lora), checkpoint)
    # Left to the interpreter's exit, the threads of several processes now and then abort one that had succeeded.
    PartialState().destroy_process_group()


def train(
    model: Any, tokenizer: Any, args: SFTConfig, examples: Examples, lora: Any = None, checkpoint: str | None = None
) -> None:
    """Train ``model`` (or the one of that name) on examples, the loss on its own tokens alone, and save it."""
    args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}
    trainer = _Trainer(model, args, train_dataset=examples.dataset(), processing_class=tokenizer, peft_config=lora)
    show_progress(trainer, ("loss", "mean_token_accuracy", "learning_rate"))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(args.output_dir)
    trainer.save_state()


class _Trainer(WholeCheckpoints, SFTTrainer):
    pass


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except AsterError as error:
        sys.exit(f"{type(error).__name__}: {error}")
