"""Stock Jupyter drives isolated sessions: managers and clients as jupyter_client ships them."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from aster_env.kernels import provisioner
from tests.kernels.servers import wait_until


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("prefix")
    folder = provisioner.install_kernelspec(prefix=str(prefix))
    return KernelSpecManager(kernel_dirs=[str(folder.parent)])


@pytest.fixture(params=["tcp", "ipc"])
def kernel(request, specs, tmp_path):
    options = {} if request.param == "tcp" else {"ip": str(tmp_path / "k")}
    manager = KernelManager(kernel_name="aster", kernel_spec_manager=specs, transport=request.param, **options)
    manager.connection_file = str(tmp_path / "connection.json")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.context.destroy(linger=0)
    client.context.destroy(linger=0)


def run(client, code, **options):
    shown = []
    reply = client.execute_interactive(code, timeout=30, output_hook=shown.append, **options)
    return reply["content"], {message["msg_type"]: message["content"] for message in shown}


def test_a_stock_client_runs_cells_completes_inspects_and_answers_input(kernel):
    manager, client = kernel
    reply, shown = run(client, "x = 41\nprint('hi')\nx + 1")
    assert (reply["status"], reply["execution_count"]) == ("ok", 1)
    assert shown["stream"]["text"] == "hi\n"
    assert shown["execute_result"]["data"]["text/plain"] == "42"
    reply, shown = run(client, "1 / 0")
    assert (reply["status"], shown["error"]["ename"]) == ("error", "ZeroDivisionError")
    _, shown = run(client, "input('name? ')", allow_stdin=True, stdin_hook=lambda message: client.input("Ann"))
    assert shown["execute_result"]["data"]["text/plain"] == "'Ann'"
    assert "x.bit_length()" in client.complete("x.bit_l", 7, reply=True, timeout=30)["content"]["matches"]
    assert "Return the" in client.inspect("len", 3, reply=True, timeout=30)["content"]["data"]["text/plain"]
    client.is_complete("def f(")
    assert client.get_shell_msg(timeout=30)["content"]["status"] == "incomplete"
    assert client.kernel_info(reply=True, timeout=30)["content"]["implementation"] == "aster"
    assert manager.is_alive()
    assert client.is_alive()


def test_the_session_is_isolated(kernel):
    _, client = kernel
    reply, _ = run(client, "import os\nos.fork()")
    assert reply["ename"] == "PermissionError"
    reply, _ = run(client, "open('/etc/passwd')")
    assert reply["status"] == "error"
    reply, _ = run(client, "import socket\nsocket.socket()")
    assert reply["ename"] == "PermissionError"


FAST_OPEN = """
import os, socket, stat
said = []
for fd in range(3, 256):
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            continue
        held = socket.socket(fileno=os.dup(fd))
        held.shutdown(socket.SHUT_RD)
        held.sendto(b"escaped", 0x20000000, ("127.0.0.1", PORT))
        said.append("sent")
    except OSError as error:
        said.append(error.errno)
said
"""


def test_a_listening_socket_of_the_host_is_no_way_out(kernel):
    _, client = kernel
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        client.execute(FAST_OPEN.replace("PORT", str(server.getsockname()[1])))
        with pytest.raises(TimeoutError):
            server.accept()


def test_it_is_interrupted_restarted_and_shut_down_as_any_kernel(kernel):
    manager, client = kernel
    run(client, "x = 1")
    client.execute("print('on', flush=True)\nwhile True: pass")
    wait_until(lambda: client.get_iopub_msg(timeout=30)["msg_type"] == "stream")
    manager.interrupt_kernel()
    assert client.get_shell_msg(timeout=30)["content"]["ename"] == "KeyboardInterrupt"
    assert run(client, "x")[1]["execute_result"]["data"]["text/plain"] == "1"
    manager.restart_kernel()
    client.wait_for_ready(timeout=60)
    assert run(client, "x")[0]["ename"] == "NameError"
    manager.shutdown_kernel()
    assert not manager.is_alive()


def test_a_kernel_that_dies_is_noticed(kernel):
    manager, client = kernel
    client.execute("import os\nos._exit(5)")
    wait_until(lambda: not manager.is_alive())


def test_the_fork_server_ends_with_its_last_kernel(specs, tmp_path):
    manager = KernelManager(kernel_name="aster", kernel_spec_manager=specs)
    manager.connection_file = str(tmp_path / "connection.json")
    manager.start_kernel()
    server = provisioner._shared._server
    assert server is not None
    manager.shutdown_kernel(now=True)
    manager.context.destroy(linger=0)
    assert provisioner._shared._server is None
    assert server.process.poll() is not None


def test_the_provisioner_is_found_by_its_entry_point():
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_client.kernelspecapp", "provisioners"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert provisioner.NAME in done.stdout + done.stderr
