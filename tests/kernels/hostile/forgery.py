"""Attacks on the kernel's protocol: a session speaks to its host itself."""

from __future__ import annotations

from tests.kernels.hostile.case import ANY, case, family

BROKEN = {"state": "lost"}

FORGERY = family(
    "kernel",
    case(
        "a forged result",
        """
send(message('execute_result', result('6 * 7'), msg_id()))
'mine'""",
        ANY,
    ),
    case(
        "a forged end of the cell",
        """
send(message('execute_result', result("'forged'"), msg_id()) + message('status', IDLE, msg_id()))
time.sleep(0.3)""",
        "forged",
    ),
    case(
        "a forged end, and the cell goes on",
        """
send(message('status', IDLE, msg_id()))
while True: pass""",
        after="kept + 1",
        then=ANY,
        after_timeout=0.3,
    ),
    case(
        "a forged answer to the next cell, ahead of it",
        """
following = str(int(msg_id()) + 1)
send(message('execute_result', result('666'), following) + message('status', IDLE, following))
'mine'""",
        "mine",
    ),
    case(
        "a forged answer to the next cell, after this one",
        """
following = str(int(msg_id()) + 1)
def run():
    time.sleep(0.05)
    send(message('execute_result', result('666'), following) + message('status', IDLE, following))
threading.Thread(target=run, daemon=True).start()""",
        after="""
time.sleep(0.2)
kept + 1""",
        then=(42, 666),
    ),
    case(
        "a forged answer to a cell that was",
        """
send(message('execute_result', result('666'), '1') + message('status', IDLE, '1'))
'mine'""",
        "mine",
    ),
    case(
        "a forged answer to no cell",
        """
send(message('status', IDLE, None) + message('status', IDLE, 'x') + message('status', IDLE, {}))
'mine'""",
        "mine",
    ),
    case(
        "a forged start",
        """
send(message('status', {'execution_state': 'starting'}, '') * 3)
'mine'""",
        "mine",
    ),
    case(
        "a forged failure of the sandbox",
        """
send(message('aster_failed', {'why': 'x'}, msg_id()))
'mine'""",
        "mine",
    ),
    case(
        "a forged error",
        r"""
send(message('error', {'traceback': ['\x1b[31mred\x1b[0m'], 'ename': 'E', 'evalue': 'e'}, msg_id()))
'mine'""",
        "mine",
        error="^red$",
    ),
    case(
        "a forged flood of output",
        "while True: send(message('stream', {'name': 'stdout', 'text': 'x' * 10_000}, msg_id()))",
        **BROKEN,
    ),
    case(
        "a forged flood for no cell",
        "while True: send(message('stream', {'name': 'stdout', 'text': 'x' * 10_000}, 'x'))",
        **BROKEN,
    ),
    case(
        "a forged flood after the cell",
        """
def run():
    while True: send(message('stream', {'name': 'x', 'text': 'x' * 10_000}, 'x'))
threading.Thread(target=run, daemon=True).start()""",
        state="",
        after="""
time.sleep(0.5)
kept + 1""",
        then=ANY,
    ),
    case(
        "a flood of tiny messages",
        """
piece = message('stream', {}, msg_id()) * 1000
while True: send(piece)""",
        **BROKEN,
    ),
    case(
        "fields of other types",
        """
contents = [{}, {'name': 7, 'text': 7}, {'text': None}, {'data': []}, {'data': {'text/plain': {}}}, {'traceback': 'x'}]
contents += [{'traceback': [[], {}, None]}, {'execution_state': []}]
for content in contents:
    for kind in ('stream', 'execute_result', 'display_data', 'error', 'status', 'x', ''):
        send(message(kind, content, msg_id()))
'mine'""",
        "mine",
        error=ANY,
    ),
)

CASES = [*FORGERY]
