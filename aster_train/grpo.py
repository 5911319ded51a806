"""GRPO on a tool-use environment: ``accelerate launch aster_train/grpo.py --config FILE [--key value …]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trl import GRPOConfig

from aster_env.errors import AsterError
from aster_train import engines
from aster_train.checkpoints import is_finished, resume_together
from aster_train.config import (
    ASTER,
    GRPOSettings,
    find_model,
    load_tokenizer,
    lora_config,
    read_settings,
    training_arguments,
)
from aster_train.progress import show_progress
from aster_train.recipe import Recipe
from aster_train.trainer import AsterGRPOTrainer


def main(arguments: Sequence[str]) -> None:
    """Train as configured, going on from the last checkpoint in ``output_dir``, and save the model there.

    Raises:
        UsageError: the configuration is wrong; said before a model is loaded.
    """
    settings = read_settings(GRPOSettings, arguments, __doc__ or "", GRPOConfig)
    engines.prepare()
    model = find_model(settings.model, settings.train.get("output_dir"))
    args = training_arguments(GRPOConfig, ASTER, settings.train)
    checkpoint = resume_together(args.output_dir)
    if is_finished(checkpoint, args):
        print(f"This run is finished; {checkpoint} holds its model. Fix: raise train.max_steps to go on.")
        return
    trainer = AsterGRPOTrainer(
        model,
        args,
        load_tokenizer(model),
        env=settings.env,
        env_kwargs=settings.env_kwargs,
        eval_env_kwargs=settings.eval_env_kwargs,
        policy_kwargs=settings.policy_kwargs,
        max_concurrent=settings.max_concurrent,
        ahead=settings.ahead,
        patience=settings.patience,
        recipe=Recipe.read(settings.shaping, settings.penalties, settings.selection, settings.curriculum),
        modules=settings.modules,
        peft_config=lora_config(settings.lora),
    )
    show_progress(trainer, ("accuracy", "reward", "tools/calls_mean", "entropy", "time/rollout", "time/update"))
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model(args.output_dir)
        trainer.save_state()
    finally:
        trainer.close()
    # Left to the interpreter's exit, the threads of several processes now and then abort one that had succeeded.
    trainer.accelerator.end_training()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except AsterError as error:
        sys.exit(f"{type(error).__name__}: {error}")
