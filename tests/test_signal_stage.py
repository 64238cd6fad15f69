import math
from dataclasses import replace

from pipeline.streaming.signal_stage import lacks_score
from point_cases import scored


def test_a_score_that_is_none_is_counted_and_one_that_is_not_due_is_not():
    window = scored()

    def lacks(**changed):
        return lacks_score(replace(window, drift=replace(window.drift, **changed)))

    assert not lacks()
    assert lacks(score=math.nan)
    assert lacks(score=-math.inf)
    assert not lacks(score=math.nan, band_shares=())  # learning
    assert not lacks_score(replace(window, drift=None))  # standing still


def test_a_window_that_the_model_could_not_read_lacks_its_score():
    window = scored()
    for fault, expected in (("not_embedded", True), ("flatline", False)):
        health = replace(window.health, faults=(fault,))
        assert lacks_score(replace(window, drift=None, health=health)) is expected
