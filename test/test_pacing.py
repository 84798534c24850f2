# SPDX-License-Identifier: Apache-2.0
"""How often something is done."""

import numpy as np
import pytest

from ledpose_ros.pacing import Pace


@pytest.mark.parametrize(
    ("camera", "rate", "allowed"),
    [(10.0, 10.0, 10.0), (15.0, 10.0, 10.0), (30.0, 10.0, 10.0), (5.0, 10.0, 5.0), (30.0, 0.5, 0.5)],
)
def test_it_happens_as_often_as_it_may(camera, rate, allowed):
    """Also when pictures come a little early or late."""
    seconds = 40
    times = np.arange(seconds * camera) / camera
    times += np.random.default_rng(0).uniform(0, 0.01, len(times))
    pace = Pace()
    count = sum(pace.allows(float(now), rate) for now in times)
    assert count == pytest.approx(seconds * allowed, abs=1)


def test_after_a_pause_nothing_is_made_up_for():
    pace = Pace()
    assert pace.allows(0.0, 10.0)
    assert [pace.allows(100.0 + step, 10.0) for step in (0.0, 0.03, 0.06)] == [True, False, False]


def test_a_higher_rate_takes_effect_at_once():
    pace = Pace()
    assert pace.allows(0.0, 0.1)
    assert not pace.allows(1.0, 0.1)
    assert not pace.allows(1.0, 10.0)
    assert pace.allows(1.1, 10.0)
