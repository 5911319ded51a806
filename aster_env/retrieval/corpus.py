"""A corpus on disk: passages that are read from a memory map, with where they are from and under which licence."""

from __future__ import annotations

import hashlib
import json
import mmap
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aster_env.errors import UsageError
from aster_env.retrieval.base import Passage
from aster_env.retrieval.staging import check_free, put, staged

INFO, PASSAGES, OFFSETS, ATTRIBUTION = "corpus.json", "passages.jsonl", "offsets.npy", "ATTRIBUTION.md"


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """What a corpus is.

    Args:
        name: for people and reports.
        source: where the text was taken from.
        licence: of the text; ``"unknown"`` where nothing says it.
        attribution: whom to name, and for what; written beside the corpus as ``ATTRIBUTION.md``.
        passages: how many.
        sha256: of ``passages.jsonl``.
    """

    name: str
    source: str
    licence: str
    attribution: str = ""
    passages: int = 0
    sha256: str = ""


class Corpus(Sequence[Passage]):
    """The passages of a folder that ``write_corpus`` made; nothing but what is asked for is read into memory.

    The folder holds ``corpus.json`` (a ``CorpusInfo``), ``passages.jsonl`` (``{"id", "title", "text"}`` a line, UTF-8)
    and ``offsets.npy`` (uint64, shape (passages + 1,): where each line begins, in bytes).

    Args:
        folder: where it is.

    Raises:
        UsageError: there is no corpus, or a part of it is missing or of the wrong size.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.info = _read_info(self.folder)
        try:
            self._offsets = np.load(self.folder / OFFSETS, mmap_mode="r")
            with (self.folder / PASSAGES).open("rb") as file:
                self._bytes: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise _damaged(self.folder, str(error)) from error
        if len(self._offsets) != self.info.passages + 1 or int(self._offsets[-1]) != len(self._bytes):
            raise _damaged(self.folder, "its parts do not have the sizes that belong together")

    def __len__(self) -> int:
        return self.info.passages

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"passage {index} of {len(self)}")
        start, end = self._offsets[index % len(self)], self._offsets[index % len(self) + 1]
        try:
            return Passage(**json.loads(self._bytes[int(start) : int(end)]))
        except (ValueError, TypeError) as error:
            raise _damaged(self.folder, f"passage {index} cannot be read ({error})") from error

    def __iter__(self) -> Iterator[Passage]:
        return (self[n] for n in range(len(self)))

    def __repr__(self) -> str:
        return f"Corpus({self.info.name!r}, {len(self)} passages)"

    @property
    def source(self) -> dict[str, str]:
        """What a trajectory records of it."""
        return {"corpus": self.info.name, "licence": self.info.licence, "sha256": self.info.sha256}

    def verify(self) -> None:
        """Read the whole of it and compare the hash.

        Raises:
            UsageError: the passages are not those that were written.
        """
        if hashlib.sha256(self._bytes).hexdigest() != self.info.sha256:
            raise _damaged(self.folder, f"the hash of {PASSAGES} is not that of {INFO}")


def write_corpus(folder: str | Path, passages: Iterable[Passage], info: CorpusInfo) -> Corpus:
    """Write a corpus and open it; a folder that appears is whole.

    Args:
        folder: must not exist, or be empty.
        passages: read once; scores are not stored.
        info: its ``passages`` and ``sha256`` are counted here.

    Raises:
        UsageError: the folder holds something, there is no passage, or two have the same id.
    """
    folder = Path(folder).expanduser().resolve()
    check_free(folder)
    with staged(folder) as built:
        built.mkdir()
        offsets, digest = _write_passages(built / PASSAGES, passages)
        np.save(built / OFFSETS, np.frombuffer(offsets, dtype=np.uint64))
        whole = {**asdict(info), "passages": len(offsets) - 1, "sha256": digest}
        (built / INFO).write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if info.attribution:
            (built / ATTRIBUTION).write_text(info.attribution.rstrip() + "\n", encoding="utf-8")
        put(built, folder)
    return Corpus(folder)


def _write_passages(path: Path, passages: Iterable[Passage]) -> tuple[array[int], str]:
    """Return where the lines begin, and the hash of all of them."""
    offsets, digest = array("Q", [0]), hashlib.sha256()
    names = array("q")
    with path.open("wb") as file:
        for passage in passages:
            row = {"id": passage.id, "title": passage.title, "text": passage.text}
            line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
            names.append(hash(passage.id))
            file.write(line)
            digest.update(line)
            offsets.append(offsets[-1] + len(line))
    if len(offsets) == 1:
        raise UsageError("A corpus needs at least one passage, and the source holds none.")
    _check_names(path, offsets, np.frombuffer(names, dtype=np.int64))
    return offsets, digest.hexdigest()


def _check_names(path: Path, offsets: Sequence[int], hashes: npt.NDArray[np.int64]) -> None:
    """Raise ``UsageError`` if two passages have the same id; of 21 million, a set of ids would take gigabytes."""
    order = np.argsort(hashes, kind="stable")
    twice = np.flatnonzero(np.diff(hashes[order]) == 0)
    with path.open("rb") as file:
        for one, other in zip(order[twice], order[twice + 1], strict=True):
            names = []
            for place in (one, other):
                file.seek(offsets[place])
                names.append(json.loads(file.readline())["id"])
            if names[0] == names[1]:
                raise UsageError(f"Two passages have the id {names[0]!r}. Fix: give each its own.")


def _read_info(folder: Path) -> CorpusInfo:
    try:
        raw: Any = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"There is no corpus in {str(folder)!r}. Fix: make one with `aster corpus build`, or name its folder."
        ) from error
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{INFO}: {error}") from error
    known = {field.name for field in fields(CorpusInfo)}
    if not isinstance(raw, Mapping) or not {"name", "licence", "passages", "sha256"} <= set(raw):
        raise _damaged(folder, f"{INFO} lacks a part")
    return CorpusInfo(**{"source": "", **{name: value for name, value in raw.items() if name in known}})


def _damaged(folder: Path, reason: str) -> UsageError:
    return UsageError(f"The corpus in {str(folder)!r} is damaged: {reason}. Fix: build it again.")
