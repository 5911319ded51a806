"""What DeepSpeed and vLLM need before they are imported, where there is no GPU: both run on a CPU, for tests."""

from __future__ import annotations

import functools
import os
import warnings
from typing import Any

import torch

from aster_env.errors import MissingExtraError


def prepare() -> None:
    """Make DeepSpeed usable on a CPU, where ``accelerate launch`` asked for it; call it before training arguments.

    Without a GPU it would compile a collective library of its own at first use: minutes, and a lock that outlives a
    run that was killed meanwhile. Gloo does the same work.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true" or torch.cuda.is_available():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed calls torch by names that torch is about to change, and says so at every collective.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)


def prepare_vllm(dtype: str) -> None:
    """Make vLLM usable for training; call it before TRL makes an engine.

    The engine computes in the precision of the update. Left to itself, it would serve weights of 32 bits in 16, and
    sample from other probabilities than the trained ones.

    On a CPU vLLM packs the weights of linear layers in a form of its own and frees them, so that no update reaches
    them; here they stay what they are. And a request with a seed ended it when its prompt was read in pieces.

    Args:
        dtype: of the update: ``"float32"``, ``"bfloat16"`` or ``"float16"``.

    Raises:
        MissingExtraError: vLLM is not installed.
    """
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    try:
        from vllm import LLM
        from vllm.model_executor.layers import utils
        from vllm.platforms import current_platform
    except ImportError as error:
        raise MissingExtraError("vllm", "vllm", "train.use_vllm") from error
    from trl.generation import vllm_generation

    vllm_generation.LLM = functools.partial(LLM, dtype=dtype)
    if current_platform.is_cpu():

        def keep(layer: Any, remove_weight: bool) -> None:
            layer.cpu_linear = torch.nn.functional.linear

        utils.dispatch_cpu_unquantized_gemm = keep
        _keep_seeds()


def _keep_seeds() -> None:
    """Let prompts of requests with seeds be read in pieces on a CPU.

    vLLM samples after each piece, throws the token away and sets the generator back, which a CPU's cannot be. Nothing
    was sampled with it before, so here it begins again.
    """
    import numpy as np
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    book = CPUModelRunner._bookkeeping_sync

    def begin_again(self: Any, *args: Any) -> Any:
        generators = self.input_batch.generators
        pieces = np.flatnonzero(self.discard_request_mask.np[: self.input_batch.num_reqs]).tolist()
        held = {row: generators.pop(row) for row in pieces if row in generators}
        for generator in held.values():
            generator.manual_seed(generator.initial_seed())
        try:
            return book(self, *args)
        finally:
            generators.update(held)

    CPUModelRunner._bookkeeping_sync = begin_again
