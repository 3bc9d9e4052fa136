"""Threads start when there is work, survive a fork, and let Ctrl-C through."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from minicpm.errors import BadParameter
from minicpm.ops import native as built
from minicpm.ops.native.matrix import pack
from minicpm.ops.native.processors import default_threads, usable_processors
from minicpm.ops.native.runtime import Runtime

pytestmark = pytest.mark.skipif(
    built.absence() is not None, reason="needs the compiled part: install from source with a C++ compiler"
)


def product(threads):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(300, 256, generator=generator).bfloat16()
    return pack([weight], Runtime(threads)), torch.randn(9, 256, generator=generator)


@pytest.mark.parametrize("threads", [1, 2, 5, 16, 64])
def test_any_number_of_threads_ends_its_work(threads):
    matrix, x = product(threads)
    wanted = matrix(x)
    for _ in range(20):
        assert torch.equal(matrix(x), wanted)


def test_jobs_of_several_python_threads_wait_for_each_other():
    matrix, x = product(3)
    several = [x[:1], x[:4], x, x.repeat(60, 1)]
    wanted, found = [matrix(rows) for rows in several], []
    matrix.runtime.scratch = matrix.runtime.scratch.__class__()  # to grow while others wait for it

    def work(which):
        found.extend(torch.equal(matrix(several[which]), wanted[which]) for _ in range(50))

    workers = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 200
    assert all(found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs an operating system that forks")
def test_a_forked_child_computes_with_threads_of_its_own():
    script = """
import os, sys, torch
from minicpm.ops.native.matrix import pack
from minicpm.ops.native.runtime import Runtime
torch.set_num_threads(1)
matrix, x = pack([torch.ones(64, 64).bfloat16()], Runtime(3)), torch.ones(2, 64)
wanted = matrix(x)
child = os.fork()
same = torch.equal(matrix(x), wanted)
if child == 0:
    os._exit(0 if same else 7)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) or (0 if same else 8))
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=120, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_an_interrupt_reaches_python_between_two_products():
    matrix, x = product(2)
    main = threading.get_ident()
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    end = time.monotonic() + 60

    def products():
        while time.monotonic() < end:
            matrix(x)

    with pytest.raises(KeyboardInterrupt):
        products()
    assert torch.isfinite(matrix(x)).all()


def test_waiting_threads_take_no_processor_time():
    matrix, x = product(2)
    matrix(x)
    time.sleep(0.2)  # for the last look for work
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.25  # 0.5 had one never slept


def test_threads_follow_the_environment_and_what_the_group_pays_for(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads() == 3
    monkeypatch.setenv("MINICPM_THREADS", "2")
    assert default_threads() == 2
    monkeypatch.setenv("MINICPM_THREADS", "many")
    with pytest.raises(BadParameter, match="MINICPM_THREADS is 'many'"):
        default_threads()
    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    assert usable_processors(quota) == 1
    quota.write_text("max 100000\n")
    assert usable_processors(quota) >= 1


@pytest.mark.parametrize("threads", [0, -1, 5000])
def test_a_senseless_number_of_threads_is_refused(threads):
    with pytest.raises(BadParameter, match="threads were asked for"):
        Runtime(threads)


def test_an_unknown_instruction_set_is_refused_with_those_there_are(monkeypatch):
    monkeypatch.setenv("MINICPM_ISA", "avx1024")
    with pytest.raises(BadParameter, match=r"Use one of: .*portable"):
        Runtime(1)
