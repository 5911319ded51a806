"""Attacks on the connection between a session and its host."""

from __future__ import annotations

from tests.kernels.hostile.case import ANY, case, family

BROKEN = {"state": "lost"}

CONNECTION = family(
    "kernel",
    case(
        "close the socket",
        """
os.close(kernel_fd())
for fd in range(3, 256): tried(os.close, fd)""",
        **BROKEN,
    ),
    case(
        "hidden in a pair of sockets that holds itself, so that it never closes",
        """
ours, theirs = socket.socketpair()
socket.send_fds(ours, [b'x'], [ours.fileno(), theirs.fileno(), kernel_fd()])
os._exit(3)""",
        **BROKEN,
    ),
    case("close everything", "os.closerange(0, 256)", **BROKEN),
    case(
        "close the captured output",
        """
os.close(1)
os.close(2)
print('still')""",
    ),
    case("shut the socket down", "socket.socket(fileno=kernel_fd()).shutdown(socket.SHUT_RDWR)", **BROKEN),
    case(
        "shut half of it down",
        """
mine = socket.socket(fileno=os.dup(kernel_fd()))
mine.shutdown(socket.SHUT_RD)
'mine'""",
        "mine",
        state="",
        then=ANY,
    ),
    case(
        "something else in place of the socket",
        """
for fd in range(3, 256):
    if tried(os.fstat, fd) != 'EBADF': os.dup2(0, fd)""",
        **BROKEN,
    ),
    case(
        "something else in place of the output",
        """
pair = socket.socketpair()
for fd in (1, 2): os.dup2(pair[0].fileno(), fd)
os.write(1, b'x') and None""",
    ),
    case(
        "an output that never ends",
        """
os.dup2(os.open('/dev/zero', os.O_RDONLY), 1)
'mine'""",
        "mine",
    ),
    case(
        "steal the next request",
        """
def run():
    mine = socket.socket(fileno=os.dup(kernel_fd()))
    while True: mine.recv(1 << 16)
threading.Thread(target=run, daemon=True).start()
time.sleep(0.05)""",
        then=ANY,
        after_timeout=0.4,
    ),
    case(
        "block the socket",
        """
mine = socket.socket(fileno=os.dup(kernel_fd()))
mine.setblocking(False)
mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
'mine'""",
        ANY,
        state="",
        then=ANY,
        timeout=3,
        after_timeout=1.0,
        error=ANY,
    ),
    case(
        "write back to itself what the host would",
        """
mine = socket.socket(fileno=os.dup(kernel_fd()))
row = {'channel': 'shell', 'header': {'msg_type': 'shutdown_request', 'msg_id': '1'}, 'content': {}}
send(packed(json.dumps({**row, 'parent_header': {}}).encode()))
'mine'""",
        **BROKEN,
    ),
    case(
        "end by the kernel's own hand",
        """
sys._getframe(3).f_locals and None
frame = sys._getframe()
while 'self' not in frame.f_locals or not hasattr(frame.f_locals['self'], '_transport'):
    frame = frame.f_back
frame.f_locals['self']._transport = None""",
        state="",
        error=ANY,
        timeout=3,
        then=ANY,
        after_timeout=1.0,
    ),
    case(
        "a larger limit of output",
        """
frame = sys._getframe()
while not hasattr(frame.f_locals.get('self'), '_outlet'): frame = frame.f_back
frame.f_locals['self']._outlet._limit = frame.f_locals['self']._limit = 10**12
while True: print('x' * 10_000)""",
        state="lost",
    ),
    case(
        "count the failures of the kernel up",
        """
signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
def run():
    for _ in range(300): os.kill(os.getpid(), signal.SIGALRM); time.sleep(0.0005)
threading.Thread(target=run, daemon=True).start()""",
        state="",
        error=ANY,
        after="""
time.sleep(0.3)
kept + 1""",
        then=ANY,
        after_timeout=3.0,
    ),
)

CASES = [*CONNECTION]
