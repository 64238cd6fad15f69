"""A stream of chunks in; what the pure core makes of it, without any service, out."""

import itertools

import torch

from pipeline.assembly import build_monitor
from pipeline.cases import CaseBook
from pipeline.encoders import load_engine
from pipeline.fleet import Fleet

BATCH = 64


def truth(chunks, settings, fleet=None):
    """Windows by (sensor, end), transitions by id and cases of an undisturbed embedded run."""
    fleet = fleet or Fleet()
    torch.set_num_threads(1)
    monitor = build_monitor(settings, fleet, load_engine(settings))
    book = CaseBook(reopen_s=settings.delays.reopen_s)
    stream, windows, transitions = iter(chunks), {}, {}
    while batch := list(itertools.islice(stream, BATCH)):
        for window in monitor.process(batch).windows:
            windows[window.sensor_id, window.window_end_ns] = window
            for transition in window.transitions:
                transitions[transition.transition_id] = transition
                book.add(transition)
    return windows, transitions, book.cases()
