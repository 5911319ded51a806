"""What DeepSpeed and vLLM need before they are imported, where there is no GPU: both run on a CPU, for tests."""

from __future__ import annotations

import os
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


def prepare_vllm() -> None:
    """Make vLLM usable for training; call it before an engine is made.

    On a CPU vLLM packs the weights of linear layers in a form of its own and frees them, so that no update reaches
    them; here they stay what they are. A GPU needs none of this.

    Raises:
        MissingExtraError: vLLM is not installed.
    """
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    try:
        from vllm.model_executor.layers import utils
        from vllm.platforms import current_platform
    except ImportError as error:
        raise MissingExtraError("vllm", "vllm", "train.use_vllm") from error
    if current_platform.is_cpu():

        def keep(layer: Any, remove_weight: bool) -> None:
            layer.cpu_linear = torch.nn.functional.linear

        utils.dispatch_cpu_unquantized_gemm = keep
