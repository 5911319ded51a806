"""Self-critic DPO on a tool-use environment: ``accelerate launch aster_train/dpo.py --config FILE [--key value …]``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
from trl import DPOConfig, DPOTrainer

from aster_env.errors import AsterError, UsageError
from aster_env.tokenizers import as_tokenizer
from aster_env.types import Trajectory
from aster_train import engines
from aster_train.checkpoints import WholeCheckpoints, resume_together
from aster_train.config import find_model, load_tokenizer, lora_config, read_settings, training_arguments
from aster_train.critic import play_tasks
from aster_train.dpo_config import DPO, LORA, DPOSettings, Sampling
from aster_train.export import export
from aster_train.preferences import Pair, Preferences, make_pairs
from aster_train.progress import show_progress
from aster_train.ranks import raise_together

MODEL = "model"
"""The folder in ``output_dir`` that holds the trained model, its adapters merged: what GRPO goes on from."""


def main(arguments: Sequence[str]) -> None:
    """Sample, score, pair and train as configured, going on from the last checkpoint, and save the model.

    Raises:
        UsageError: the configuration is wrong, said before a model is loaded; or no task gave a pair.
    """
    read = cast("Callable[..., DPOSettings]", read_settings)
    settings = read(DPOSettings, arguments, __doc__ or "", DPOConfig)
    sampling = Sampling.read(settings.sampling)
    engines.prepare()
    model = find_model(settings.model, settings.train.get("output_dir"))
    args = training_arguments(DPOConfig, DPO, settings.train)
    target = Path(args.output_dir) / MODEL
    if target.exists():
        print(f"This run is finished; {target} holds its model. Fix: name another train.output_dir to train again.")
        return
    checkpoint = resume_together(args.output_dir)
    tokenizer = load_tokenizer(model)
    lora = lora_config(None if settings.lora is None else {**LORA, **settings.lora})
    preferences = prefer(settings, sampling, model, args, tokenizer)
    if args.process_index == 0:
        print(preferences.report())
    train(model, tokenizer, args, preferences.pairs, lora, checkpoint)
    if args.process_index == 0:
        with _whole_models(args):
            print(export(args.output_dir, str(target)))
    PartialState().wait_for_everyone()
    # Left to the interpreter's exit, the threads of several processes now and then abort one that had succeeded.
    PartialState().destroy_process_group()


def prefer(settings: DPOSettings, sampling: Sampling, model: str, args: DPOConfig, tokenizer: Any) -> Preferences:
    """Return the pairs of the episodes that ``model`` plays, the same on every process.

    The episodes are kept in ``output_dir/trajectories/sampled.jsonl``, and what they were played with in
    ``sampled.json``: a run that resumes pairs those, for its model has seen them. Without a pair, new ones are in
    ``unpaired.jsonl`` beside it, and a run that starts again plays anew.

    Raises:
        UsageError: the environment cannot be made, no task gave a pair, or the episodes that are kept were played with
            something else than what is configured.
        InfrastructureError: not one episode could be played.
    """
    file = Path(args.output_dir) / "trajectories" / "sampled.jsonl"
    source = _source(settings, sampling, model, args.seed)
    known = all(gather_object([file.is_file()]))
    if known:
        _check_source(file, source)
        lines = file.read_text(encoding="utf-8").splitlines()
        episodes = [Trajectory.from_json(json.loads(line)) for line in lines]
    else:
        with _whole_models(args):
            episodes = play_tasks(settings, sampling, model, args, as_tokenizer(tokenizer))
    options = {"threshold": sampling.threshold, "per_task": sampling.pairs_per_task, "max_length": args.max_length}
    preferences = make_pairs(episodes, **options, seed=args.seed)
    if not known:
        if not preferences.pairs:
            file = file.with_name("unpaired.jsonl")
        _keep(file, episodes, source if preferences.pairs else None, args.process_index)
    if not preferences.pairs:
        raise UsageError(
            f"No pair to learn from: {preferences.report()} (right: a reward of at least {sampling.threshold:g}). "
            f"The episodes are in {file}. Fix: raise sampling.rollouts or sampling.prompts, or name tasks that the "
            "model sometimes solves."
        )
    return preferences


def train(
    model: Any, tokenizer: Any, args: DPOConfig, pairs: Sequence[Pair], lora: Any = None, checkpoint: str | None = None
) -> None:
    """Train ``model`` (or the one of that name) on pairs, and save it; the reference is the model as it is now."""
    trainer = PairTrainer(
        model,
        args=args,
        data_collator=PairCollator(tokenizer.pad_token_id),
        train_dataset=Dataset.from_list([pair.row() for pair in pairs]),
        processing_class=tokenizer,
        peft_config=lora,
    )
    show_progress(trainer, ("loss", "rewards/accuracies", "rewards/margins", "learning_rate"))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(args.output_dir)
    trainer.save_state()


class PairTrainer(WholeCheckpoints, DPOTrainer):
    """TRL's DPO trainer on rows of ``Pair``, which hold ids already."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        """Return the rows as they are: TRL would render and tokenise them."""
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the masks, too."""
        super()._set_signature_columns_if_needed()
        self._signature_columns: list[str] = sorted({*self._signature_columns, "chosen_mask", "rejected_mask"})


@dataclass(frozen=True, slots=True)
class PairCollator:
    """Makes TRL's batch of rows of ``Pair``: the chosen ones, then the rejected ones, padded on the right.

    TRL's own collator counts every id after the prompt as the model's; here ``completion_mask`` is 1 where the model
    sampled, so that results are read but neither liked nor disliked.

    Args:
        pad_id: fills the rows.
    """

    pad_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``attention_mask`` and ``completion_mask``, shape (2B, T) each."""
        sides = [(row, side) for side in ("chosen", "rejected") for row in rows]
        ids = [torch.tensor([*row["prompt_ids"], *row[f"{side}_ids"]]) for row, side in sides]
        masks = [torch.tensor([0] * len(row["prompt_ids"]) + [*row[f"{side}_mask"]]) for row, side in sides]
        names = [name for name in ("ref_chosen_logps", "ref_rejected_logps") if name in rows[0]]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_id),
            "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
            "completion_mask": pad_sequence(masks, batch_first=True),
            **{name: torch.tensor([row[name] for row in rows]) for name in names},
        }


@contextmanager
def _whole_models(args: DPOConfig) -> Iterator[None]:
    """Have models loaded whole on each process, also where ZeRO-3 splits those that are trained."""
    plugin = args.deepspeed_plugin
    if plugin is None:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(plugin.dschf)


def _source(settings: DPOSettings, sampling: Sampling, model: str, seed: int) -> dict[str, Any]:
    """Return what decides which episodes are played, as plain JSON; not what decides how they are paired."""
    played = {name: getattr(sampling, name) for name in ("prompts", "rollouts", "temperature", "top_p")}
    folder = str(Path(model).resolve()) if Path(model).is_dir() else model
    values = {"model": folder, "env": settings.env, "env_kwargs": settings.env_kwargs, "sampling": played, "seed": seed}
    plain: dict[str, Any] = json.loads(json.dumps(values, default=repr))
    return plain


def _check_source(file: Path, source: Mapping[str, Any]) -> None:
    """Raise a UsageError where the episodes of ``file`` were played with something else."""
    note = file.with_suffix(".json")
    before = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    other = [
        f"{name} was {before.get(name)!r} and is {value!r}"
        for name, value in source.items()
        if before.get(name) != value
    ]
    if other:
        raise UsageError(
            f"The episodes in {file} were not played with this configuration: {'; '.join(other)}. "
            f"Fix: name another train.output_dir, or delete the folder {file.parent.parent} to start anew."
        )


def _keep(file: Path, episodes: Sequence[Trajectory], source: Mapping[str, Any] | None, process: int) -> None:
    """Write episodes, and what they were played with, on the first process; return when they are there.

    Collective: another process that went on to end the run would have the launcher end the first one at its writing.
    """
    failure: Exception | None = None
    if process == 0:
        try:
            if source is not None:
                _write(file.with_suffix(".json"), json.dumps(source, indent=2))
            _write(file, "".join(json.dumps(t.to_json()) + "\n" for t in episodes))
        except OSError as error:
            failure = error
    raise_together(failure)


def _write(file: Path, text: str) -> None:
    """Write a file; it is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_suffix(".partial")
    written.write_text(text, encoding="utf-8")
    written.replace(file)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except AsterError as error:
        sys.exit(f"{type(error).__name__}: {error}")
