"""A key/value cache in blocks: an episode takes memory for the tokens it has, whatever the others' lengths."""

from __future__ import annotations

from typing import Any

import torch

BLOCK = 64
"""Tokens of a block; blocks are counted from 1, for block 0 is where padding is written."""


class BlockCache:
    """Keys and values of many episodes, for a stock ``transformers`` model's forward pass.

    Which block holds which tokens is the caller's to say, at each pass (``select``). The type is that of the first keys
    and values, layer by layer: under autocast it is not the model's. Memory grows by doubling, up to ``blocks``.
    Follows the part of ``transformers.Cache`` that models with full attention call (``update``, ``get_seq_length``).

    Args:
        blocks: the most blocks that will be named.
    """

    def __init__(self, blocks: int) -> None:
        self._most = (blocks + 1) * BLOCK
        self._stores: dict[tuple[int, int], torch.Tensor] = {}
        self._read = self._write = torch.empty(0, dtype=torch.long)
        self._shape = (0, 0)
        self._needed = 0

    @property
    def size(self) -> int:
        """Bytes allocated."""
        return sum(store.nbytes for store in self._stores.values())

    def select(self, table: torch.Tensor, write: torch.Tensor, length: int, highest: int) -> None:
        """Say what the next forward pass reads and writes.

        Args:
            table: each row's blocks in the order of its tokens, shape (B, length / BLOCK or more); 0 where none.
            write: places (block x BLOCK + offset) that the new keys and values go to, shape (B, T).
            length: positions that are read.
            highest: the highest block in ``table``.
        """
        places = (table[:, :, None] * BLOCK + torch.arange(BLOCK, device=table.device)).flatten(1)
        self._read, self._write = places[:, :length].flatten(), write
        self._shape = (table.shape[0], length)
        self._needed = (highest + 1) * BLOCK

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values of shape (B, heads, T, head size); return all, (B, heads, length, head size)."""
        result = []
        for kind, new in enumerate((keys, values)):
            store = self._store((layer, kind), new)
            store[self._write] = new.transpose(1, 2)
            used = store.index_select(0, self._read)
            result.append(used.view(*self._shape, *store.shape[1:]).transpose(1, 2))
        return result[0], result[1]

    def get_seq_length(self, layer: int = 0) -> int:
        """Return the number of positions that are read."""
        return self._shape[1]

    def _store(self, name: tuple[int, int], new: torch.Tensor) -> torch.Tensor:
        """Return a layer's keys or values, with room for the highest block."""
        old = self._stores.get(name)
        if old is not None and len(old) >= self._needed:
            return old
        room = self._needed if old is None else max(self._needed, min(2 * len(old), self._most))
        # Zeros: a padded position is read, with weight 0, and 0 times what memory happens to hold need not be 0.
        grown = new.new_zeros(room, new.shape[1], new.shape[3])
        if old is not None:
            grown[: len(old)] = old
        self._stores[name] = grown
        return grown
