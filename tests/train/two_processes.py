"""One of two processes of a training run; RANK says which. The first argument is a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.modules["vllm"] = None  # TRL would import it, for half of this program's time

from aster_env.errors import InfrastructureError  # noqa: E402
from aster_train.recipe import Recipe  # noqa: E402
from tests.train.support import save_model  # noqa: E402
from tests.train.test_recipe import Player  # noqa: E402
from tests.train.test_trl_contract import make_trainer, with_guesser  # noqa: E402


def main(folder: Path) -> None:
    save_model(folder / "shaped" / "model")  # once processes know of each other, only the first saves
    trainer = make_trainer(folder)
    rank = trainer.accelerator.process_index
    said = {}
    try:
        batches = iter(trainer.get_train_dataloader())
        trainer.model.train()
        for name, broken in (("one", range(8) if rank else ()), ("both", range(8))):
            with_guesser(trainer, broken)
            try:
                output = trainer._generate_and_score_completions(next(batches))
                said[name] = int((output["tool_mask"] * output["completion_mask"]).sum())
            except InfrastructureError as error:
                said[name] = str(error)
            said[f"{name} seeds"] = [asked.seed for asked in trainer.policy.requests]
        said["masked"] = trainer._metrics["train"]["masked_episodes"]
    finally:
        trainer.close()
    said["shaped"] = shaped(folder / "shaped")
    trainer.accelerator.end_training()
    (folder / "said.json").write_text(json.dumps(said))


def shaped(folder: Path) -> list[float]:
    """Train on one group that lies on both processes, with shaped advantages; return those of this process."""
    recipe = Recipe.read(shaping={"name": "aspo"})
    kwargs = {"max_tokens": 300}
    trainer = make_trainer(folder, env_kwargs=kwargs, recipe=recipe, num_generations=8, steps_per_generation=1, seed=1)
    try:
        trainer.policy = Player(trainer._runners["train"].envs[0])
        trainer.model.train()
        batch = next(iter(trainer.get_train_dataloader()))
        return trainer._generate_and_score_completions(batch)["advantages"].tolist()
    finally:
        trainer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
