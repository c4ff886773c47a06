import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from lib.modeling.forks import in_forks


def fails_at_two(number):
    if number == 2:
        raise FloatingPointError("the loss is nan")
    return number


def test_jobs_run_side_by_side_in_processes_and_come_back_in_order():
    def late(seconds, name):
        time.sleep(seconds)
        return name, os.getpid(), torch.get_num_threads()

    found = list(in_forks(late, [(0.3, "slow"), (0.0, "fast"), (0.0, "last")], 2))
    assert [name for name, *_ in found] == ["slow", "fast", "last"]
    assert len({pid for _, pid, _ in found} - {os.getpid()}) == 2
    assert {threads for *_, threads in found} == {1}


def test_processes_see_the_memory_they_were_forked_from():
    features = torch.arange(6.0)
    assert list(in_forks(lambda row: float(features[row]), [(1,), (4,)], 2)) == [1.0, 4.0]


def scored(seed):
    features = torch.randn(300, 400, generator=torch.Generator().manual_seed(seed))
    return float((features @ features.T).softmax(1).std())


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_any_number_of_workers_gives_the_same(workers):
    threads = torch.get_num_threads()
    alone = [scored_alone(seed) for seed in (1, 2, 3)]
    assert list(in_forks(scored, [(1,), (2,), (3,)], workers)) == alone
    assert torch.get_num_threads() == threads


def scored_alone(seed):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = scored(seed)
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_job_is_raised(workers):
    found = in_forks(fails_at_two, [(1,), (2,), (3,), (4,)], workers)
    assert next(found) == 1
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        next(found)


def test_an_error_ends_what_runs_and_begins_nothing_more(tmp_path):
    def job(name):
        (tmp_path / name).touch()
        if name == "fails":
            raise FloatingPointError("the loss is nan")
        time.sleep(600)

    found = in_forks(job, [("fails",), ("long",), ("waiting",), ("last",)], 2)
    with pytest.raises(FloatingPointError):
        next(found)
    assert not (tmp_path / "last").exists()


def test_an_interruption_ends_what_runs():
    # Where the tests were started in the background it is ignored, and never comes.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    found = in_forks(time.sleep, [(600,), (600,), (600,)], 2)
    threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT]).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(found)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_killed_process_is_said_with_what_to_do():
    def ends():
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match=r"was killed, .*fewer `workers`"):
        list(in_forks(ends, [(), ()], 2))


def test_no_jobs_need_no_process():
    assert list(in_forks(fails_at_two, [], 2)) == []


def test_an_accelerator_is_not_forked(monkeypatch):
    monkeypatch.setattr("lib.modeling.forks.default_device", lambda: "cuda")
    assert set(in_forks(os.getpid, [(), ()], 2)) == {os.getpid()}


KILLED = """
import os, time
from lib.modeling.forks import in_forks

def job(seconds):
    # At once: print may write the number and the end of the line apart.
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(seconds)

list(in_forks(job, [(600,), (600,)], 2))
"""


def test_a_killed_process_leaves_none_behind():
    program = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    children = [int(program.stdout.readline()) for _ in range(2)]
    program.send_signal(signal.SIGKILL)
    program.wait()
    for _ in range(100):
        alive = [pid for pid in children if running(pid)]
        if not alive:
            break
        time.sleep(0.1)
    assert not alive


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
