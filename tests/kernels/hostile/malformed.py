"""Attacks on the kernel's protocol by messages that are none."""

from __future__ import annotations

from tests.kernels.hostile.case import ANY, case, family

BROKEN = {"state": "lost"}

MALFORMED = family(
    "kernel",
    case(
        "a message that is a list",
        """
send(packed(b'[1, 2]'))
'mine'""",
        **BROKEN,
    ),
    case(
        "a message that is nothing",
        """
send(packed(b'null'))
'mine'""",
        **BROKEN,
    ),
    case(
        "a message that is empty",
        """
send(packed(b''))
'mine'""",
        **BROKEN,
    ),
    case(
        "a message without a head",
        """
send(packed(b'{}'))
'mine'""",
        **BROKEN,
    ),
    case(
        "a message whose content is nothing",
        """
send(message('stream', None, msg_id()))
'mine'""",
        **BROKEN,
    ),
    case(
        "a message whose parent is nothing",
        """
send(packed(b'{"header": {"msg_type": "x"}, "parent_header": null, "content": {}}'))
'mine'""",
        **BROKEN,
    ),
    case(
        "a message that is no JSON",
        """
send(packed(b'{' * 100))
'mine'""",
        **BROKEN,
    ),
    case(
        "a message that is no text",
        """
send(packed(os.urandom(100)))
'mine'""",
        **BROKEN,
    ),
    case(
        "a message too deep",
        """
send(packed(b'[' * 10**5 + b']' * 10**5))
'mine'""",
        **BROKEN,
    ),
    case(
        "a message with a huge number",
        """
send(packed(b'{"header": {"msg_type": ' + b'9' * 10**5 + b'}}'))
'mine'""",
        **BROKEN,
    ),
    case(
        "a length beyond all bounds",
        r"""
send(b'\xff\xff\xff\xff')
'mine'""",
        **BROKEN,
    ),
    case(
        "half a message, and no more",
        """
send(struct.pack('>I', 10_000) + b'{')
while True: pass""",
        state="lost",
        timed_out=True,
        timeout=0.3,
    ),
    case(
        "half a message, and the rest by the kernel",
        """
send(struct.pack('>I', 100))
'mine'""",
        state="lost",
        timed_out=None,
        timeout=0.5,
    ),
    case(
        "letter by letter",
        """
for letter in message('stream', {'name': 'stdout', 'text': 'slow'}, msg_id()): send(bytes([letter]))
'mine'""",
        "mine",
    ),
    case(
        "text of half a pair",
        r"""
send(message('stream', {'name': 'stdout', 'text': '\ud800' * 9}, msg_id()))
'mine'""",
        "mine",
    ),
    case(
        "descriptors for the host",
        """
mine = socket.socket(fileno=os.dup(kernel_fd()))
for _ in range(50): tried(socket.send_fds, mine, [message('x', {}, msg_id())], [0] * 100)
'mine'""",
        "mine",
    ),
    case(
        "bytes out of band",
        """
mine = socket.socket(fileno=os.dup(kernel_fd()))
tried(mine.send, b'x', socket.MSG_OOB)
'mine'""",
        ANY,
        state="",
        timed_out=None,
        timeout=0.5,
        then=ANY,
        after_timeout=0.5,
    ),
)

CASES = [*MALFORMED]
