"""What DeepSpeed holds on each of two processes, against what `aster plan` says; run as a program, one of the two."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIZES = {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8,
         "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "use_cache": False}  # fmt: skip
SETTINGS = {"1": (1, True), "2": (2, True), "3": (3, True), "3 in fp32": (3, False)}
"""Stage, and whether in bf16."""


def main() -> dict[str, dict[str, int]]:
    """Return the bytes of parameters, gradients and optimizer of this process, for each setting."""
    from aster_train.engines import prepare

    prepare()
    import deepspeed
    import torch
    import transformers

    deepspeed.init_distributed("gloo", verbose=False)
    found = {}
    for name, (stage, bf16) in SETTINGS.items():
        config = transformers.AutoConfig.for_model("qwen3", **SIZES)
        model = transformers.AutoModelForCausalLM.from_config(config)
        settings = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 2,
            "bf16": {"enabled": bf16},
            # A buffer of a fixed size, which the plan has a line of its own for.
            "zero_optimization": {"stage": stage, "reduce_bucket_size": 1_000_000},
            "zero_allow_untested_optimizer": True,
        }
        made = torch.optim.AdamW(model.parameters(), lr=1e-4)
        engine, zero, *_ = deepspeed.initialize(model=model, optimizer=made, config=settings)
        ids = torch.ones(1, 8, dtype=torch.long)
        for part in range(2):
            engine.backward(engine(input_ids=ids, labels=ids).loss)
            if part == 0:
                # Between two micro-batches: at the last, ZeRO-1 lets go of what belongs to others.
                found[name] = {"gradients": gradients_of(model, zero, stage)}
            engine.step()
        found[name] |= {"weights": weights_of(model, stage), "optimizer": optimizer_of(zero, stage)}
    return found


def sizes_of(tensors) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def weights_of(model, stage: int) -> int:
    return sizes_of([p.ds_tensor if stage == 3 else p.data for p in model.parameters()])


def gradients_of(model, zero, stage: int) -> int:
    if stage == 3:
        return sizes_of([zero.grad_partitions_flat_buffer])
    groups = [*zero.averaged_gradients.values(), *zero.all_grad_tensors.values()]
    own = [one for group in groups if group is not None for one in group]
    return sizes_of([*own, *(p.grad for p in model.parameters() if p.grad is not None)])


def optimizer_of(zero, stage: int) -> int:
    masters = zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
    moments = [value for state in zero.optimizer.state.values() for value in state.values() if value.numel() > 1]
    return sizes_of([*masters, *moments])


@pytest.mark.slow
@pytest.mark.deepspeed
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_each_of_two_processes_holds_what_is_planned(tmp_path):
    import torch
    import transformers

    from aster_train.planning.memory import Training, gradients, optimizer, weights
    from aster_train.planning.model import shape_of

    both = run_two(tmp_path)
    config = transformers.AutoConfig.for_model("qwen3", **SIZES)
    shape = shape_of("random", config, torch, transformers)
    assert shape.parameters > 5_000_000
    for setting, (stage, bf16) in SETTINGS.items():
        training = Training(gpus=2, zero=stage, bf16=bf16, context=16)
        for one in both:
            for name, planned in (("weights", weights), ("gradients", gradients), ("optimizer", optimizer)):
                found, expected = one[setting][name], planned(shape, training).bytes
                assert abs(found - expected) <= 0.1 * expected, (setting, name, found, expected)


def run_two(folder: Path) -> list[dict[str, dict[str, int]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    try:
        for rank in range(2):
            world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_SIZE": 2, "MASTER_PORT": port}
            env = {**os.environ, **{name: str(value) for name, value in world.items()}, "MASTER_ADDR": "127.0.0.1",
                   "ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu",
                   "TORCH_EXTENSIONS_DIR": str(folder / "extensions")}  # fmt: skip
            command = [sys.executable, "-m", "tests.train.test_plan_zero", str(folder / f"{rank}.json")]
            processes.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
            )
        for process in processes:
            output = process.communicate(timeout=200)[0]
            assert process.returncode == 0, output[-4000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(main()), encoding="utf-8")
