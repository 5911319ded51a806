"""The objective in plain tensors, and TRL's own loss and weights under ASTER's settings, which equal it."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from aster_train.config import ASTER, training_arguments
from aster_train.objective import dual_clip, truncated_weights
from tests.train.support import save_model

RATIOS = [0.1, 0.5, 0.9, 1.0, 1.2, 1.5, 5.0, 9.0, 15.0, 200.0]


def test_dual_clip_is_the_table_by_hand():
    ratio = torch.tensor([RATIOS, RATIOS])
    result = dual_clip(ratio, torch.tensor([[2.0], [-2.0]]), 0.2, 0.28, 10.0)
    right = [0.2, 1.0, 1.8, 2.0, 2.4, 2.56, 2.56, 2.56, 2.56, 2.56]
    wrong = [-1.6, -1.6, -1.8, -2.0, -2.4, -3.0, -10.0, -18.0, -20.0, -20.0]
    assert result[0].tolist() == pytest.approx(right)
    assert result[1].tolist() == pytest.approx(wrong)


def test_past_either_bound_nothing_is_learned():
    ratio = torch.tensor([RATIOS, RATIOS], requires_grad=True)
    dual_clip(ratio, torch.tensor([[2.0], [-2.0]]), 0.2, 0.28, 10.0).sum().backward()
    assert ratio.grad is not None
    assert (ratio.grad[0] != 0).tolist() == [value < 1.28 for value in RATIOS]
    assert (ratio.grad[1] != 0).tolist() == [0.8 < value < 10 for value in RATIOS]


def test_a_bound_within_the_clipping_is_refused():
    with pytest.raises(ValueError, match=r"c=1\.2"):
        dual_clip(torch.ones(1), torch.ones(1), 0.2, 0.28, 1.2)


def test_weights_are_cut_from_above_alone():
    assert truncated_weights(torch.tensor([0.0, 0.3, 1.0, 2.0, 7.0]), 2.0).tolist() == pytest.approx(
        [0.0, 0.3, 1.0, 2.0, 2.0]
    )


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """TRL's trainer as it is, with ASTER's settings, as if vLLM had sampled."""
    from datasets import Dataset

    folder = tmp_path_factory.mktemp("objective")
    model = save_model(folder / "model")
    values = {
        "output_dir": str(folder / "out"), "per_device_train_batch_size": 2, "num_generations": 2, "use_cpu": True,
        "steps_per_generation": 1, "gradient_checkpointing": False, "delta": 10.0, "disable_tqdm": True,
    }  # fmt: skip

    def rollout(prompts, _):
        ids = [[10 + n, 20, 30 + n, 40] for n in range(len(prompts))]
        # A random model gives each token about log(1 / 350), so some of these are above it and some below.
        return {
            "prompt_ids": [[1, 2]] * len(prompts),
            "completion_ids": ids,
            "logprobs": [[-9.0, -6.5, -5.0, -0.5]] * 2,
        }

    made = GRPOTrainer(
        model,
        reward_funcs=[lambda completions, **_: [float(n) for n in range(len(completions))]],
        args=training_arguments(GRPOConfig, ASTER, values),
        processing_class=AutoTokenizer.from_pretrained(model),
        train_dataset=Dataset.from_dict({"prompt": ["a"] * 2}),
    )
    made.rollout_func, made.use_vllm, made._last_loaded_step = rollout, True, 0
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made


def test_trls_loss_is_dual_clip_times_the_weights(trainer):
    torch.manual_seed(0)
    count = len(RATIOS)
    ids, weights = torch.randint(10, 300, (2, count)), truncated_weights(torch.rand(2, count) * 4, 2.0)
    mask = torch.ones(2, count, dtype=torch.long)
    mask[1, -1] = 0
    prompt = torch.tensor([[1, 2], [3, 4]])
    with torch.no_grad():
        logits = trainer.model(torch.cat([prompt, ids], 1)).logits[:, 1:-1]
    new = logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]
    ratio, advantages = torch.tensor([RATIOS, RATIOS]), torch.tensor([1.5, -0.5])
    inputs = {
        "prompt_ids": prompt, "prompt_mask": torch.ones_like(prompt), "completion_ids": ids, "completion_mask": mask,
        "advantages": advantages, "old_per_token_logps": new - ratio.log(), "importance_sampling_ratio": weights,
        "num_items_in_batch": mask.sum().float(),
    }  # fmt: skip
    ours = -(dual_clip(ratio, advantages[:, None], 0.2, 0.28, 10.0) * weights * mask).sum() / mask.sum()
    assert trainer._compute_loss(trainer.model, inputs).item() == pytest.approx(ours.item(), rel=1e-4)


def test_trls_weights_are_the_truncated_ones(trainer):
    output = trainer._generate_and_score_completions([{"prompt": "a"}] * 2)
    ratio = (output["old_per_token_logps"] - output["sampling_per_token_logps"]).exp()
    weights = output["importance_sampling_ratio"]
    assert (ratio > 2).any()
    assert (ratio < 2).any()
    assert torch.allclose(weights, truncated_weights(ratio, 2.0), rtol=1e-4)
