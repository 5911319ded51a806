"""A pool over a real Ray cluster of three nodes on this machine: placing, losing, joining, errors, nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from aster_env.errors import KernelError, MissingExtraError, UnknownNameError, UsageError
from aster_env.kernels import open_pool
from aster_env.kernels.rayhost import KernelHost
from tests.kernels.servers import alive, below, wait_until

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
STOCK = {"inner": "ipykernel", "inner_options": {"allow_unsandboxed": True}}
INNER = {"inner": "zygote", "inner_options": {"allow_unsandboxed": True, "preload": (), "spares": 0}}
NODE = {"object_store_memory": 80 * 1024 * 1024, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster():
    """Three nodes: two of one CPU, one of two. A killed node is noticed after about two seconds."""
    from ray.cluster_utils import Cluster

    health = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": health, **NODE})
    try:
        made.add_node(num_cpus=1, wait=False, **NODE)
        made.add_node(num_cpus=2, wait=False, **NODE)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def with_pool(cluster, test, **options):
    async def main():
        async with open_pool("ray", address=cluster.address, **{**INNER, **options}) as pool:
            await test(pool)

    asyncio.run(main())


def command(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def wait_until_gone(pids):
    wait_until(lambda: not any(map(alive, pids)))


def raylet(node):
    return node.all_processes["raylet"][0].process.pid


def hosts(*nodes):
    """Return the host processes of sessions on the nodes."""
    return [pid for node in nodes for pid in below(raylet(node)) if "KernelHost" in command(pid)]


def held(*nodes):
    """Return the host processes on the nodes and every process of their inner pools and sessions."""
    return {pid for host in hosts(*nodes) for pid in (host, *below(host))}


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"inner": "ipykernels"}, UnknownNameError, "Did you mean 'ipykernel'"),
        ({"inner": "ray"}, UnknownNameError, "inner kernel pool 'ray'"),
        ({"inner_options": {"max_kernel": 1}}, UnknownNameError, "Did you mean 'max_kernels'"),
        ({"max_kernels_per_node": 0}, UsageError, "max_kernels_per_node=0"),
        ({"start_timeout": 0}, UsageError, "start_timeout=0"),
        ({"start_timeout": float("nan")}, UsageError, "start_timeout=nan"),
        ({"address": "ray://head:10001"}, UsageError, "not supported"),
        ({"address": "head"}, UsageError, "address 'head' is not allowed"),
        ({"address": ""}, UsageError, "address '' is not allowed"),
        ({"nodes": 3}, UnknownNameError, "option of the kernel pool 'ray'"),
    ],
)
def test_an_argument_that_is_not_allowed_is_named(options, kind, text):
    with pytest.raises(kind, match=text):
        open_pool("ray", **{**INNER, **options})


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"aster-gym\[ray\]"):
        open_pool("ray", **INNER)


@needs_ray
def test_sessions_spread_by_cpus_and_keep_their_variables(cluster):
    async def test(pool):
        kernels = await asyncio.gather(*(pool.start() for _ in range(4)))
        assert sorted(Counter(kernel.node for kernel in kernels).values()) == [1, 1, 2]
        await asyncio.gather(*(kernel.execute(f"x = {i}") for i, kernel in enumerate(kernels)))
        cells = await asyncio.gather(*(kernel.execute("print('out')\nx") for kernel in kernels))
        assert [(cell.value, cell.stdout, cell.state) for cell in cells] == [
            (str(i), "out\n", "kept") for i in range(4)
        ]

    with_pool(cluster, test)


@needs_ray
def test_full_nodes_make_the_next_wait_and_a_joined_node_is_used_until_it_is_lost(cluster):
    async def test(pool):
        kernels = await asyncio.gather(*(pool.start() for _ in range(3)))
        assert len({kernel.node for kernel in kernels}) == 3
        waiting = [asyncio.create_task(pool.start()) for _ in range(3)]
        done, _ = await asyncio.wait(waiting, timeout=1.5)
        assert not done
        await kernels[1].close()
        fourth = await asyncio.wait_for(waiting[0], 60)
        assert fourth.node == kernels[1].node
        assert not waiting[1].done()

        node = cluster.add_node(num_cpus=1, **NODE)  # blocks: Ray sets signal handlers, in the main thread only
        lost = await asyncio.wait_for(waiting[1], 60)
        assert lost.node == node.node_id
        assert not waiting[2].done()
        others = [kernels[0], kernels[2], fourth]
        await asyncio.gather(*(kernel.execute("x = 5") for kernel in (lost, *others)))
        gone = held(node)
        assert len(gone) > 1

        running = asyncio.create_task(lost.execute("import time; time.sleep(1000)", timeout=1000))
        await asyncio.sleep(0.2)
        cluster.remove_node(node, allow_graceful=False)
        for doomed in (running, lost.execute("x")):
            with pytest.raises(KernelError, match=rf"{node.node_id[:12]}.*was lost"):
                await asyncio.wait_for(doomed, 30)
        await lost.close()
        assert [(await kernel.execute("x")).value for kernel in others] == ["5"] * 3
        assert not waiting[2].done()
        await kernels[0].close()
        again = await asyncio.wait_for(waiting[2], 60)
        assert again.node == kernels[0].node
        assert (await again.execute("1 + 1")).value == "2"
        await asyncio.to_thread(wait_until_gone, gone)

    with_pool(cluster, test, max_kernels_per_node=1)


@needs_ray
def test_a_host_process_that_hangs_or_dies_is_replaced(cluster, monkeypatch):
    monkeypatch.setattr("aster_env.kernels.raynode._SILENCE", 1.0)

    async def test(pool):
        for ending, says in ((signal.SIGSTOP, "does not answer"), (signal.SIGKILL, "ActorDiedError")):
            pool.start_timeout = 60.0
            kernel = await pool.start()
            assert (await kernel.execute("1 + 1")).value == "2"
            gone = held(*cluster.list_all_nodes())
            (host,) = hosts(*cluster.list_all_nodes())
            pool.start_timeout = 1.0
            os.kill(host, ending)
            with pytest.raises(KernelError, match=rf"was lost.*{says}"):
                await asyncio.wait_for(kernel.execute("1", timeout=1), 30)
            await kernel.close()
            await asyncio.to_thread(wait_until_gone, gone)

    with_pool(cluster, test)


@needs_ray
def test_an_error_of_a_node_keeps_its_kind(cluster):
    async def test(pool):
        with pytest.raises(UsageError, match=r"max_kernels=0 is not allowed.*Ray node"):
            await pool.start()
        assert all(node.live == 0 for node in pool._nodes.values())

    with_pool(cluster, test, **{**STOCK, "inner_options": {"allow_unsandboxed": True, "max_kernels": 0}})


def test_a_host_answers_errors_as_values_and_calls_in_any_order():
    async def test():
        host = KernelHost("ipykernel", {"allow_unsandboxed": True})
        assert await host.open() == ("ok", None)
        host._pool.start_timeout = 0.001
        kind, text = await host.start(1)
        assert (kind, "did not start" in text) == ("kernel", True)
        host._pool.start_timeout = 60.0
        await host.end(2)
        assert (await host.start(2))[0] == "kernel"
        starting = asyncio.create_task(host.start(3))
        await asyncio.sleep(0.1)
        await host.end(3)
        assert (await starting)[0] == "kernel"
        assert await host.count() == ("ok", 0)
        assert await host.start(4) == ("ok", None)
        await host.abort(4, 1)
        assert await host.execute(4, 1, "1", 30.0) == ("kernel", "The cell was cancelled.")
        assert (await host.execute(4, 2, "1 + 1", 30.0))[1].value == "2"
        assert await host.execute(5, 1, "1", 30.0) == ("kernel", "The session is closed.")
        await host.close()
        assert (await host.start(6))[0] == "kernel"
        assert not below(os.getpid()) - before

    before = below(os.getpid())
    asyncio.run(test())


# Of every claim of test_conformance.py, which runs over Ray too, this is what a stock inner pool adds.
@needs_ray
@pytest.mark.slow
def test_failures_of_the_code_are_in_the_cell_of_a_stock_session(cluster):
    async def test(pool):
        kernel = await pool.start()
        assert "ZeroDivisionError" in (await kernel.execute("1 / 0")).error
        slow = await kernel.execute("while True: pass", timeout=0.5)
        assert (slow.timed_out, slow.state) == (True, "kept")
        dead = await kernel.execute("import os; os._exit(1)")
        assert (dead.died, dead.state) == (True, "lost")
        assert (await kernel.execute("1 + 1")).value == "2"

    with_pool(cluster, test, **STOCK)


@needs_ray
def test_a_cancelled_cell_frees_its_session_and_a_cancelled_start_its_place(cluster):
    async def test(pool):
        kernels = await asyncio.gather(*(pool.start() for _ in range(3)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(kernels[0].execute("while True: pass", timeout=1000), 0.5)
        assert (await asyncio.wait_for(kernels[0].execute("1 + 1"), 30)).value == "2"
        await kernels[0].close()
        for seconds in (0, 0.001, 0.003):
            starting = asyncio.create_task(pool.start())
            await asyncio.sleep(seconds)
            if starting.cancel():
                await asyncio.wait({starting})
            else:
                await starting.result().close()
        again = await asyncio.wait_for(pool.start(), 30)
        assert (await again.execute("1 + 1")).value == "2"
        for kernel in (*kernels, again):
            await kernel.close()
        sessions = {node.name: await node.call("count", within=10) for node in pool._nodes.values()}
        assert set(sessions.values()) == {0}

    with_pool(cluster, test, max_kernels_per_node=1)


@needs_ray
def test_nothing_is_left_after_an_exception(cluster):
    gone = set()

    async def test(pool):
        await pool.start()
        gone.update(held(*cluster.list_all_nodes()))
        assert len(gone) > 1
        raise KeyError("planned")

    with pytest.raises(KeyError):
        with_pool(cluster, test)
    wait_until_gone(gone)
    assert not held(*cluster.list_all_nodes())


@needs_ray
def test_nothing_is_left_after_close_and_what_is_closed_says_so(cluster):
    async def test(pool):
        first, second = await asyncio.gather(pool.start(), pool.start())
        gone = held(*cluster.list_all_nodes())
        assert len(gone) > 2
        await first.close()
        await first.close()
        with pytest.raises(KernelError, match="session is closed"):
            await first.execute("1")
        running = asyncio.create_task(second.execute("while True: pass", timeout=1000))
        await asyncio.sleep(0.2)
        await pool.close()
        await pool.close()
        with pytest.raises(KernelError):
            await asyncio.wait_for(running, 10)
        with pytest.raises(KernelError, match="pool is closed"):
            await pool.start()
        with pytest.raises(KernelError, match="closed"):
            await second.execute("1")
        await second.close()
        await asyncio.to_thread(wait_until_gone, gone)
        assert not held(*cluster.list_all_nodes())

    with_pool(cluster, test)


@needs_ray
def test_nothing_is_left_after_the_callers_processes_end(cluster):
    program = textwrap.dedent(f"""
        import asyncio, sys
        from aster_env.kernels import open_pool
        async def main():
            pool = open_pool("ray", address={cluster.address!r}, **{INNER!r})
            kernels = await asyncio.gather(*(pool.start() for _ in range(2)))
            print("ready", flush=True)
            if sys.argv[1] == "killed":
                await kernels[0].execute("while True: pass", timeout=1000)
            input()
        asyncio.run(main())
    """)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    commands = ([sys.executable, "-c", program, ending] for ending in ("killed", "exits without close"))
    with contextlib.ExitStack() as stack:
        killed, exits = (stack.enter_context(subprocess.Popen(command, **pipes)) for command in commands)
        assert [caller.stdout.readline() for caller in (killed, exits)] == ["ready\n"] * 2
        gone = held(*cluster.list_all_nodes())
        assert len(gone) > 4
        os.kill(killed.pid, signal.SIGKILL)
        exits.communicate("\n", timeout=30)
    wait_until_gone(gone)
    assert not held(*cluster.list_all_nodes())


@needs_ray
def test_a_connection_is_shared_and_ended_by_the_last_pool_that_made_it(cluster):
    import ray

    async def two():
        async with open_pool("ray", address=cluster.address, **INNER) as first, open_pool("ray", **INNER) as second:
            await first.close()
            assert (await (await second.start()).execute("1 + 1")).value == "2"

    async def one():
        async with open_pool("ray", **INNER):
            pass

    asyncio.run(two())
    assert not ray.is_initialized()
    ray.init(address=cluster.address, log_to_driver=False, namespace="mine")
    try:
        asyncio.run(one())
        assert ray.is_initialized()
        assert ray.get_runtime_context().namespace == "mine"
    finally:
        ray.shutdown()


@needs_ray
def test_a_connection_that_is_ended_elsewhere_gives_a_kernel_error(cluster):
    import ray

    async def test(pool):
        kernel = await pool.start()
        ray.shutdown()
        with pytest.raises(KernelError, match="connection to Ray was ended"):
            await kernel.execute("1")
        with pytest.raises(KernelError, match="connection to Ray was ended"):
            await pool.start()
        await kernel.close()

    with_pool(cluster, test)
    assert not ray.is_initialized()


@needs_ray
def test_an_address_where_no_cluster_is_gives_a_kernel_error(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(KernelError, match=r"127\.0\.0\.1:1"):
        asyncio.run(open_pool("ray", **INNER).__aenter__())
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:1")
    with pytest.raises(UsageError, match="not supported"):
        asyncio.run(open_pool("ray", **INNER).start())


@needs_ray
def test_without_an_address_a_local_cluster_is_made_and_ended(monkeypatch):
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = below(os.getpid())

    async def main():
        async with open_pool("ray", **INNER) as pool:
            assert (await (await pool.start()).execute("1 + 1")).value == "2"
            return below(os.getpid()) - before

    made = asyncio.run(main())
    assert len(made) > 4
    assert not ray.is_initialized()
    wait_until_gone(made)
