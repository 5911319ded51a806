"""Attacks by signals and threads."""

from __future__ import annotations

from tests.kernels.hostile.case import ANY, all_in, case, family

DEAF = {"timeout": 0.3, "timed_out": True, "state": "lost"}

SIGNALS = family(
    "signals",
    case(
        "stop itself",
        """
os.kill(os.getpid(), signal.SIGSTOP)
kept""",
        41,
        differs={"confined": DEAF},
    ),
    case(
        "kill itself",
        """
os.kill(os.getpid(), signal.SIGKILL)
kept""",
        41,
        differs={"confined": {"state": "lost"}},
    ),
    case(
        "kill its group",
        """
os.kill(0, signal.SIGKILL)
kept""",
        41,
        differs={"confined": {"state": "lost"}},
    ),
    case(
        "end itself",
        """
os.kill(os.getpid(), signal.SIGTERM)
kept""",
        41,
        differs={"confined": {"state": "lost"}},
    ),
    case("abort", "os.abort()", state="lost"),
    case("a fault", "ctypes.string_at(0)", state="lost"),
    case(
        "a fault that is told",
        """
import faulthandler
faulthandler.enable()
ctypes.string_at(0)""",
        state="lost",
    ),
    case(
        "a fault that is survived",
        """
signal.signal(signal.SIGSEGV, signal.SIG_IGN)
ctypes.string_at(0)""",
        state="lost",
    ),
    case("exit below Python", "os._exit(0)", state="lost"),
    case("exit", "sys.exit(3)", error="SystemExit"),
    case("exit with everything", "raise SystemExit('x' * 10**6)", error="SystemExit"),
    case("interrupt itself", "signal.raise_signal(signal.SIGINT)", error="KeyboardInterrupt"),
    case(
        "timers that never cease",
        """
for s in (signal.SIGVTALRM, signal.SIGPROF): signal.signal(s, lambda *_: None)
signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.001)
signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)""",
        (0.0, 0.0),
    ),
    case(
        "timers that raise",
        """
signal.signal(signal.SIGVTALRM, lambda *_: 1 / 0)
signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.001)
while True: pass""",
        error="ZeroDivisionError",
        after="""
signal.setitimer(signal.ITIMER_VIRTUAL, 0)
kept + 1""",
        then=ANY,
        after_timeout=3.0,
    ),
    case(
        "a timer that Python does not know",
        """
signal.signal(signal.SIGUSR1, lambda *_: 1 / 0)
event = (ctypes.c_uint32 * 16)(0, 0, 10, 0)
syscall('timer_create', 1, event, (ctypes.c_uint32 * 1)())""",
        0,
    ),
    case("queue many", "[tried(os.kill, os.getpid(), signal.SIGWINCH) for _ in range(1000)].count(None)", 1000),
    case(
        "every handler replaced",
        """
for s in set(signal.Signals) - {9, 19}: tried(signal.signal, s, lambda *_: None)
while True: pass""",
        **DEAF,
    ),
    case(
        "a descriptor to wake",
        """
pair = socket.socketpair()
pair[1].setblocking(False)
signal.set_wakeup_fd(pair[1].fileno(), warn_on_full_buffer=False)""",
        -1,
    ),
    case("a death that is not signalled", "syscall('prctl', 1, 0, 0, 0, 0)", "EPERM"),
)

THREADS = family(
    "threads",
    case(
        "as many as there can be",
        """
halt, threads = threading.Event(), []
try:
    while len(threads) < 1000:
        threads.append(threading.Thread(target=halt.wait))
        threads[-1].start()
except (RuntimeError, MemoryError) as error:
    print(error)
halt.set()
for thread in threads[:-1]: thread.join()
len(threads) < 200""",
        True,
    ),
    case(
        "one that goes on and on",
        """
def run():
    while True: pass
threading.Thread(target=run, daemon=True).start()""",
    ),
    case("one that goes on, and is no daemon", "threading.Thread(target=time.sleep, args=(1000,)).start()"),
    case(
        "one that prints after the cell",
        """
def run():
    while True: time.sleep(0.01); print('x' * 100)
threading.Thread(target=run, daemon=True).start()""",
        after="""
time.sleep(0.2)
kept + 1""",
    ),
    case(
        "one that ends the session later",
        "threading.Timer(0.05, os._exit, (0,)).start()",
        after="""
time.sleep(5)
kept + 1""",
        then=ANY,
    ),
    case(
        "one that raises",
        """
def run(): raise ValueError('in a thread')
t = threading.Thread(target=run)
t.start()
t.join()""",
    ),
    case(
        "one that interrupts later",
        """
import _thread
def run():
    time.sleep(0.05)
    _thread.interrupt_main()
threading.Thread(target=run).start()""",
        after="""
time.sleep(0.3)
kept + 1""",
        then=ANY,
    ),
    case(
        "one that throws into the kernel later",
        """
me = threading.get_ident()
def run():
    time.sleep(0.05)
    for _ in range(5):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(me), ctypes.py_object(SystemExit))
        time.sleep(0.01)
threading.Thread(target=run).start()""",
        after="1",
        then=ANY,
    ),
    case(
        "one that holds the lock of imports",
        """
import importlib._bootstrap as b
def run():
    with b._ModuleLockManager('wave'): time.sleep(1000)
threading.Thread(target=run, daemon=True).start()
time.sleep(0.05)""",
    ),
    case(
        "one that holds the lock of Python",
        """
t = threading.Thread(target=ctypes.PyDLL(None).sleep, args=(1000,), daemon=True)
t.start()""",
        **DEAF,
    ),
    case(
        "a great many in turn",
        """
for _ in range(300):
    t = threading.Thread(target=int)
    t.start()
    t.join()""",
    ),
    case(
        "below Python",
        """
call = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda p: None)
ids = [libc.pthread_create((ctypes.c_ulong * 1)(), None, call, None) for _ in range(10)]
time.sleep(0.1)
set(ids)""",
        all_in(0, 11),
    ),
)

CASES = [*SIGNALS, *THREADS]
