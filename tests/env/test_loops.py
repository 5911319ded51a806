"""What the users of an event loop share: made by the first, closed by the last."""

from __future__ import annotations

import asyncio

import pytest

from aster_env import loops
from aster_env.errors import KernelError, UsageError


class Shared:
    def __init__(self, error=None):
        self.error, self.closed = error, 0

    async def close(self):
        self.closed += 1
        if self.error:
            raise self.error


def test_the_first_user_makes_it_and_the_last_one_closes_it():
    async def main():
        first, second, other = (loops.lease(key, Shared) for key in ("a", "a", "b"))
        assert first is second
        assert first is not other
        await loops.release(first)
        assert first.closed == 0
        await loops.release(second)
        await loops.release(second)
        assert first.closed == 1
        assert loops.lease("a", Shared) is not first
        await loops.close_leases()
        assert other.closed == 1

    asyncio.run(main())


def test_loops_do_not_share():
    async def main():
        leased = loops.lease("a", Shared)
        await loops.release(leased)
        return leased

    assert asyncio.run(main()) is not asyncio.run(main())


def test_one_that_fails_to_close_does_not_keep_the_others_open():
    async def main():
        failing = loops.lease("failing", lambda: Shared(KernelError("gone")))
        others = [loops.lease(n, Shared) for n in range(3)]
        with pytest.raises(KernelError, match="gone"):
            await loops.close_leases()
        assert [each.closed for each in (failing, *others)] == [1, 1, 1, 1]

    asyncio.run(main())


def test_a_blocking_call_from_the_background_loop_is_refused():
    async def inner():
        pass

    async def main():
        loops.run(inner())

    with pytest.raises(UsageError, match="await the asynchronous form"):
        loops.run(main())
