"""A key/value cache with one slot an episode, each of its own length."""

from __future__ import annotations

from typing import Any

import torch

_BUCKET = 64


class SlotCache:
    """Keys and values of many episodes, for a stock ``transformers`` model's forward pass.

    The last position of every slot is never valid: padding is written there. Follows the part of
    ``transformers.Cache`` that models with full attention call (``update``, ``get_seq_length``).

    Args:
        config: the model's text configuration.
        slots: how many episodes fit.
        dtype: of keys and values.
        device: where they are.
    """

    def __init__(self, config: Any, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.slots, self.capacity = slots, 0
        self._shape = (slots, heads, head_size)
        self._layers: int = config.num_hidden_layers
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._dtype, self._device = dtype, device
        self._rows: torch.Tensor | None = None
        self._write = torch.empty(0)
        self._length = 0

    def reserve(self, length: int) -> None:
        """Make room for ``length`` positions a slot, and the spare one."""
        if length < self.capacity:
            return
        old, self.capacity = self.capacity, (length // _BUCKET + 1) * _BUCKET + 1
        slots, heads, head_size = self._shape
        for tensors in (self._keys, self._values):
            for layer in range(self._layers):
                grown = torch.zeros(slots, heads, self.capacity, head_size, dtype=self._dtype, device=self._device)
                if old:
                    grown[:, :, : old - 1] = tensors[layer][:, :, : old - 1]
                    tensors[layer] = grown
                else:
                    tensors.append(grown)

    def select(self, rows: torch.Tensor | None, write: torch.Tensor, length: int) -> None:
        """Say what the next forward pass reads and writes.

        Args:
            rows: the slots of the batch, shape (B,); None for the first B slots.
            write: positions that the new keys and values go to, shape (B, T).
            length: positions that are read.
        """
        self._rows, self._write, self._length = rows, write, length

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values of shape (B, heads, T, head size); return all, (B, heads, length, head size)."""
        batch = keys.shape[0]
        rows = torch.arange(batch, device=keys.device) if self._rows is None else self._rows
        result = []
        for store, new in ((self._keys[layer], keys), (self._values[layer], values)):
            store[rows[:, None], :, self._write] = new.transpose(1, 2)
            used = store[:, :, : self._length]
            result.append(used[:batch] if self._rows is None else used[rows])
        return result[0], result[1]

    def get_seq_length(self, layer: int = 0) -> int:
        """Return the number of positions that are read."""
        return self._length
