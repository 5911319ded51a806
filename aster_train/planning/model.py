"""What a model's configuration says about its size; no weights are loaded."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aster_env.errors import MissingExtraError, UnknownNameError, UsageError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers the formula of activations describes: two norms, grouped attention, a gated MLP."""

_COLUMNS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "tie_word_embeddings", "vocab_size")  # fmt: skip
_QWEN3, _QWEN2 = {"model_type": "qwen3", "head_dim": 128}, {"model_type": "qwen2"}


def _rows(family: Mapping[str, Any], **models: tuple[int | bool, ...]) -> dict[str, dict[str, Any]]:
    return {name: {**family, **dict(zip(_COLUMNS, row, strict=True))} for name, row in models.items()}


KNOWN: Mapping[str, Mapping[str, Any]] = {
    **_rows(_QWEN3, **{
        "Qwen3-0.6B": (1024, 3072, 28, 16, 8, True, 151936),
        "Qwen3-1.7B": (2048, 6144, 28, 16, 8, True, 151936),
        "Qwen3-4B": (2560, 9728, 36, 32, 8, True, 151936),
        "Qwen3-8B": (4096, 12288, 36, 32, 8, False, 151936),
        "Qwen3-14B": (5120, 17408, 40, 40, 8, False, 151936),
        "Qwen3-32B": (5120, 25600, 64, 64, 8, False, 151936),
    }),
    **_rows(_QWEN2, **{
        "Qwen2.5-0.5B": (896, 4864, 24, 14, 2, True, 151936),
        "Qwen2.5-1.5B": (1536, 8960, 28, 12, 2, True, 151936),
        "Qwen2.5-3B": (2048, 11008, 36, 16, 2, True, 151936),
        "Qwen2.5-7B": (3584, 18944, 28, 28, 4, False, 152064),
        "Qwen2.5-14B": (5120, 13824, 48, 40, 8, False, 152064),
    }),
}  # fmt: skip
"""Models known without a hub, from the ``config.json`` of each at huggingface.co/Qwen; a test compares their numbers of
parameters with the published ones."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's dimensions.

    Args:
        name: of the model.
        parameters: all, tied ones once.
        linear: of them, those in the linear layers of the decoder, the language model's head not counted.
        adapted: the sum over these linear layers of inputs + outputs: LoRA of rank r adds r times as many parameters.
        layers: decoder layers.
        hidden: width of the residual stream.
        feedforward: width of the MLP.
        heads: of the queries.
        kv_heads: of keys and values.
        head_dim: width of a head.
        vocabulary: rows of the language model's head.
        qk_norm: queries and keys are normalised (Qwen3).
    """

    name: str
    parameters: int
    linear: int
    adapted: int
    layers: int
    hidden: int
    feedforward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    qk_norm: bool

    @property
    def queries(self) -> int:
        """Width of all queries together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all keys together; the values' too."""
        return self.kv_heads * self.head_dim


def read_shape(model: str) -> Shape:
    """Return the shape of a folder's model, a known one, the embedded one, or one on the hub.

    Raises:
        UsageError: there is none of that name, or its layers are of another kind than ``FAMILIES``.
        MissingExtraError: transformers or torch is not installed.
    """
    torch, transformers = libraries()
    config = _config(model, transformers).get_text_config()
    return shape_of(model, config, torch, transformers)


def libraries() -> tuple[Any, Any]:
    """Return torch and transformers.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtraError(error.name or "transformers", "train", "`aster plan`") from error
    return torch, transformers


def shape_of(name: str, config: Any, torch: Any, transformers: Any) -> Shape:
    """Return the shape of a configuration; its parameters are counted on torch's meta device, which stores none.

    Raises:
        UsageError: it has experts, sliding windows, or layers of a kind that is not described here.
    """
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if config.model_type not in FAMILIES or kinds != {"full_attention"}:
        found = config.model_type if kinds == {"full_attention"} else f"{config.model_type} with {', '.join(kinds)}"
        raise UsageError(
            f"model: {name!r} is a {found} model, whose activations this command has no formula for. "
            f"Allowed: {', '.join(FAMILIES)}, with full attention in all layers."
        )
    with torch.device("meta"), _quiet():
        model = transformers.AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    return Shape(
        name=name,
        parameters=sum(p.numel() for p in model.parameters()),
        linear=sum(m.weight.numel() for m in linear),
        adapted=sum(m.in_features + m.out_features for m in linear),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        feedforward=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        vocabulary=config.vocab_size,
        qk_norm=any(name.endswith("q_norm") for name, _ in model.named_modules()),
    )


def _config(model: str, transformers: Any) -> Any:
    """Return a model's configuration, nearest first: a folder, a known name, the hub."""
    known = model.removeprefix("Qwen/")
    if known in KNOWN and not Path(model).exists():
        return transformers.AutoConfig.for_model(**KNOWN[known])
    if model == "embedded":
        from aster_train.tiny.embedded import make_embedded

        with TemporaryDirectory() as folder:
            return transformers.AutoConfig.from_pretrained(make_embedded(folder))
    from aster_train.config import find_model

    try:
        with _quiet():
            return transformers.AutoConfig.from_pretrained(find_model(model))
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{UnknownNameError('model', model, KNOWN)} Or a folder that save_pretrained wrote, or a hub name while "
            f"online. The hub said: {str(error).strip().splitlines()[0]}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' warnings about a configuration out of a report on memory."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
