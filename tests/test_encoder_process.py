"""An encoder in a process of its own gives what it gives here, and ends with its parent."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest

from pipeline.careful import CarefulEncoder, EncoderGoneError
from pipeline.encoders import ModelError, load_engine
from pipeline.settings import load
from pipeline.streaming.encoder_process import EncoderProcess

RNG = np.random.default_rng(5)
WINDOWS = [
    (1000 * RNG.standard_normal(16_000)).astype(np.int16),
    RNG.standard_normal(6_000).astype(np.float32),
    (1000 * RNG.standard_normal(25_600)).astype(np.int32),
]
RATES = [16_000.0, 12_800.0, 25_600.0]
GAINS = [1e-4, 1.0, 2e-4]


@pytest.fixture
def encoder():
    with closing(EncoderProcess(load({}))) as process:
        process.wait_ready()
        yield process


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_answers_what_the_same_encoder_answers_here(encoder):
    here = load_engine(load({}))
    assert (encoder.model_id, encoder.trained) == (here.model_id, here.trained)
    assert encoder.band_edges_hz(25_600.0) == here.band_edges_hz(25_600.0)
    expected = here.embed(WINDOWS, RATES, GAINS)
    found = encoder.embed(WINDOWS, RATES, GAINS)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_window_that_cannot_be_embedded_costs_that_window_only(encoder):
    bad = [WINDOWS[0], np.full(16_000, np.nan, np.float32), WINDOWS[2]]
    with pytest.raises(ValueError, match=r"samples\[1\]"):
        encoder.embed(bad, RATES, GAINS)
    lost = []
    found = CarefulEncoder(encoder, lost.append).embed(bad, RATES, GAINS)
    assert [embedding is None for embedding in found] == [False, True, False]
    assert len(lost) == 1


def test_a_child_that_died_is_no_fault_of_a_window(encoder):
    os.kill(encoder.pid, signal.SIGKILL)
    with pytest.raises(EncoderGoneError, match="ended with code -9"):
        CarefulEncoder(encoder, pytest.fail).embed(WINDOWS[:1], RATES[:1], GAINS[:1])


def test_a_model_that_cannot_be_had_is_told_in_the_words_of_the_loader():
    process = EncoderProcess(load({}, model="nanno"))
    with closing(process), pytest.raises(ModelError, match="got 'nanno'"):
        process.wait_ready()
    assert not alive(process.pid)


def test_it_lives_on_after_a_signal_to_end_and_ends_when_closed():
    with closing(EncoderProcess(load({}))) as process:
        process.wait_ready()
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(process.pid, number)
        assert len(process.embed(WINDOWS, RATES, GAINS)) == 3
    assert not alive(process.pid)


PARENT = """
import sys, time
from pipeline.settings import load
from pipeline.streaming.encoder_process import EncoderProcess
process = EncoderProcess(load({}))
process.wait_ready()
print(process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("frozen", [False, True])
def test_a_killed_parent_takes_it_along_even_from_the_midst_of_a_call(frozen):
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    if frozen:
        os.kill(pid, signal.SIGSTOP)  # as one that never answers: it will not see the pipe close
    parent.kill()
    parent.communicate()
    until_s = time.monotonic() + 20.0
    while alive(pid) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert not alive(pid)
