"""The driver under eventlet, patched before and after it was imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("eventlet")

PROGRAM = """
import sys, time
if sys.argv[2] == "late":
    import tooz_althing
import eventlet
eventlet.monkey_patch()
from tooz import coordination

one, two = (coordination.get_coordinator(sys.argv[1], name, timeout=2) for name in (b"one", b"two"))
one.start(start_heart=True)
two.start(start_heart=True)
ticks, got = [], []

def tick():
    while True:
        ticks.append(1)
        eventlet.sleep(0.01)

eventlet.spawn(tick)
lock, other = one.get_lock(sys.argv[3].encode()), two.get_lock(sys.argv[3].encode())
assert lock.acquire()
assert not other.acquire(blocking=0.3)
assert len(ticks) > 10, "others go on while one waits"
eventlet.spawn(lambda: got.append(other.acquire()))
eventlet.sleep(2.5)
assert lock.acquired, "the heart beats"
lock.release()
while not got:
    eventlet.sleep(0.01)
one.get_groups().get(timeout=5)
one.stop()
two.stop()
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_patched_process_coordinates(host, name, when):
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, host.tooz, when, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
