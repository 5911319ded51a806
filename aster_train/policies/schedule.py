"""Which episodes are served, and which blocks of the cache are whose."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from aster_env.errors import PolicyError
from aster_env.rollout import Completion, GenerateRequest
from aster_train.policies.cache import BLOCK


@dataclass(eq=False, slots=True)
class Row:
    """An episode: the ids known, how many of them the cache holds and in which blocks, and the request, if any."""

    episode: str
    ids: list[int]
    request: GenerateRequest | None
    future: asyncio.Future[Completion] | None
    fed: int = 0
    blocks: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """Ids that the cache does not hold yet."""
        return len(self.ids) - self.fed


class Schedule:
    """Requests wait in a queue until there is a place in the batch, and memory for their ids.

    An episode keeps its blocks between its turns for as long as no other needs them. Where episodes that are being
    served outgrow the memory, the youngest goes back to the head of the queue with what it has sampled, and its cache
    is computed again later; the oldest always goes on.

    Args:
        max_batch: the most episodes served at once.
        blocks: how many blocks there are.
    """

    def __init__(self, max_batch: int, blocks: int) -> None:
        self.rows: dict[str, Row] = {}
        """Episodes with blocks; of those not being served, the one that was served longest ago is first."""
        self.queue: deque[Row] = deque()
        self._max_batch, self._blocks = max_batch, blocks
        self.clear()

    @property
    def live(self) -> list[Row]:
        """The episodes being served, the oldest first."""
        return [row for row in self.rows.values() if row.request is not None]

    def clear(self) -> None:
        """Take all blocks back, and forget the episodes."""
        self.rows.clear()
        self._free = list(range(self._blocks, 0, -1))

    def admit(self) -> list[Row]:
        """Let waiting requests in, the first first; return the episodes to serve, the oldest first."""
        for row in self.live:
            if row.future is not None and row.future.cancelled():
                self.finish(row)
        live = self.live
        while self.queue and len(live) < self._max_batch:
            row = self.queue[0]
            if row.future is not None and not row.future.done():
                if not self._place(row):
                    if live:
                        break
                    self._refuse(row)
                else:
                    live.append(row)
            self.queue.popleft()
        return live

    def secure(self, rows: Sequence[Row], counts: Sequence[int]) -> list[tuple[Row, int]]:
        """Return the rows, and how many ids each is fed, that have memory for them; the youngest may have to yield."""
        live = self.live
        for row, count in zip(rows, counts, strict=True):
            while row in live and not self._grow(row, row.fed + count):
                youngest = live.pop()
                self._give_back(youngest)
                del self.rows[youngest.episode]
                if youngest is row and not live:
                    self._refuse(row)
                else:
                    self.queue.appendleft(youngest)
        return [(row, count) for row, count in zip(rows, counts, strict=True) if row in live]

    def finish(self, row: Row) -> None:
        """Note that the row's request is answered; the episode keeps its blocks while no other needs them."""
        row.request = row.future = None
        self.rows[row.episode] = self.rows.pop(row.episode)

    def release(self, episode: str) -> Row | None:
        """Take the episode's blocks back; unknown names are ignored."""
        row = self.rows.pop(episode, None)
        if row is not None:
            self._give_back(row)
        return row

    def _place(self, row: Row) -> bool:
        """Give a waiting row its episode's cache as far as it agrees, and blocks for the rest."""
        known = self.rows.pop(row.episode, None)
        if known is not None:
            row.blocks, row.fed = known.blocks, known.fed
            if known.ids[: known.fed] != row.ids[: known.fed] or known.fed >= len(row.ids):
                row.fed = 0
        if not self._grow(row, len(row.ids) + 1):
            self._give_back(row)
            return False
        self.rows[row.episode] = row
        return True

    def _grow(self, row: Row, length: int) -> bool:
        """Give the row blocks for ``length`` positions, idle episodes' if need be; return whether there were enough."""
        missing = -(-length // BLOCK) - len(row.blocks)
        while len(self._free) < missing:
            idle = next((one for one in self.rows.values() if one.request is None), None)
            if idle is None:
                return False
            self.release(idle.episode)
        row.blocks.extend(self._free.pop() for _ in range(missing))
        return True

    def _give_back(self, row: Row) -> None:
        self._free.extend(reversed(row.blocks))
        row.blocks, row.fed = [], 0

    def _refuse(self, row: Row) -> None:
        assert row.future is not None
        row.future.set_exception(
            PolicyError(
                f"The episode {row.episode!r} has {len(row.ids)} tokens, and the cache of this policy holds "
                f"{self._blocks * BLOCK}. Fix: raise max_cache_tokens, or lower the environment's max_tokens."
            )
        )
