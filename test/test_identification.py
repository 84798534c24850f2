# SPDX-License-Identifier: Apache-2.0
"""Peers told apart by what their LEDs show."""

import itertools

import numpy as np
import pytest

from ledpose_ros.identification import MOST_EVIDENCE, PeerIdentifier, assignment_marginals
from ledpose_ros.leds import LedHistory, Rejection

RATE = 20.0
NAMES = ("alpha", "beta")


def ns(seconds: float) -> int:
    return round(seconds * 1e9)


class Blinkers:
    """Named peers that blink at random, and what a network would say of them."""

    def __init__(self, seed: int = 0, peers: int = 3, duration: float = 60.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.states = self.rng.integers(0, 2, (peers, round(duration * 5), 4)).astype(float)
        self.histories = [LedHistory(ns(0.02), ns(0.5)) for _ in NAMES]
        self.identifier = PeerIdentifier(NAMES, self.histories)
        self.told = 0

    def tell_until(self, t: float) -> None:
        """The LED messages of the named peers up to a time."""
        while self.told / 5 <= t:
            for history, states in zip(self.histories, self.states, strict=False):
                history.add(ns(self.told / 5), states[self.told])
            self.told += 1

    def probability(self, peer: int, t: float, told: tuple[int, ...] = (0, 1)) -> np.ndarray:
        """The network tells these two LEDs, right nine times in ten."""
        states = self.states[peer, int(t * 5)]
        right = self.rng.random(4) < 0.9
        sure = np.where(right == (states > 0.5), 0.85, 0.15)
        return np.where(np.isin(np.arange(4), told), sure, 0.5)

    def watch(self, seconds: float, tracks: dict[int, int], start: float = 0.0, late: float = 0.4) -> None:
        """Show the peers of `tracks`, id -> peer, while LED messages come `late`."""
        for frame in range(round(seconds * RATE)):
            t = start + 0.05 + frame / RATE
            self.tell_until(t - late)
            seen = np.array([self.probability(peer, t) for peer in tracks.values()])
            self.identifier.see(ns(t), list(tracks), seen)


def test_peers_are_told_apart_within_seconds() -> None:
    blinkers = Blinkers()
    blinkers.watch(8.0, {4: 1, 7: 0})
    posterior = blinkers.identifier.posterior([4, 7])
    assert posterior.sum(1) == pytest.approx([1, 1])
    assert posterior[0, 1] > 0.95 and posterior[1, 0] > 0.95


def test_stranger_is_nobody() -> None:
    blinkers = Blinkers(seed=2)
    blinkers.watch(15.0, {0: 2, 1: 0})
    posterior = blinkers.identifier.posterior([0, 1])
    assert posterior[0, 2] > 0.9 and posterior[1, 0] > 0.95


def test_it_is_told_how_many_pictures_were_compared_and_why_not_the_last() -> None:
    blinkers = Blinkers()
    identifier = blinkers.identifier
    blinkers.watch(5.0, {0: 0}, late=100.0)
    assert identifier.compared == [0, 0]
    assert identifier.rejections == [Rejection.NO_STATE] * 2
    blinkers.watch(5.0, {0: 0}, start=5.0)
    assert identifier.rejections == [None] * 2
    seen = identifier.compared[0]
    assert 50 < seen <= 100
    # They wait in vain for LED messages.
    blinkers.watch(5.0, {0: 0}, start=10.0, late=100.0)
    assert identifier.rejections == [Rejection.NEWER] * 2


def test_nothing_is_known_before_anything_is_told() -> None:
    blinkers = Blinkers()
    blinkers.watch(5.0, {0: 0}, late=100.0)
    assert blinkers.identifier.posterior([0]) == pytest.approx(np.full((1, 3), 1 / 3), abs=1e-6)
    assert blinkers.identifier.posterior([]).shape == (0, 3)


def test_no_peer_is_in_two_places() -> None:
    """Of two tracks that both fit alpha, only one is, rather the better one."""
    identifier = PeerIdentifier(NAMES, [history := LedHistory(0, ns(0.5)), LedHistory(0, ns(0.5))])
    for frame in range(100):
        history.add(ns(frame / 10), np.array([1.0, 0, 0, 0]))
        shows = np.array([[0.9, 0.1, 0.1, 0.1], [0.8, 0.3, 0.3, 0.3]])
        identifier.see(ns(frame / 10), [0, 1], shows)
    alone = identifier.posterior([1])
    both = identifier.posterior([0, 1])
    assert alone[0, 0] > 0.95
    assert both[0, 0] > 2 * both[1, 0] and both[:, 0].sum() < 1.001


@pytest.mark.parametrize("spread", [1.0, 6.0, 20.0])
@pytest.mark.parametrize(("tracks", "peers"), [(1, 1), (1, 3), (2, 2), (3, 2), (2, 3), (3, 3)])
def test_marginals_count_all_assignments(tracks: int, peers: int, spread: float) -> None:
    weights = np.exp(np.random.default_rng(0).normal(0, spread, (tracks, peers)))
    padded = np.column_stack([weights, np.ones(tracks)])
    counted = np.zeros((tracks, peers + 1))
    for peer_of in itertools.product(range(peers + 1), repeat=tracks):
        named = [peer for peer in peer_of if peer < peers]
        if len(set(named)) == len(named):
            weight = padded[range(tracks), peer_of].prod()
            counted[range(tracks), peer_of] += weight
    exact = counted / counted.sum(1, keepdims=True)
    assert assignment_marginals(weights) == pytest.approx(exact[:, :peers], abs=1e-9)


def test_two_that_may_be_each_other_are_not_told_apart() -> None:
    """They are alpha and beta for sure, but which is which is not: a hair more for one order says little."""
    weights = np.exp([[20.5, 20.0], [20.0, 20.5]])
    assert np.diag(assignment_marginals(weights)) == pytest.approx([0.73, 0.73], abs=0.01)


def test_as_many_tracks_as_a_picture_may_have() -> None:
    certain = np.exp([[MOST_EVIDENCE] * 5] * 12)
    assert assignment_marginals(certain) == pytest.approx(np.full((12, 5), 1 / 12))


@pytest.mark.parametrize("seconds", [5.0, 50.0])
def test_peers_that_have_swapped_their_tracks_are_known_anew_soon(seconds: float) -> None:
    """However long they were who they were."""
    blinkers = Blinkers(seed=3)
    blinkers.watch(seconds, {0: 0, 1: 1})
    assert np.diag(blinkers.identifier.posterior([0, 1])) == pytest.approx([1, 1], abs=0.1)
    blinkers.watch(2.0, {0: 1, 1: 0}, start=seconds)
    assert (np.diag(blinkers.identifier.posterior([0, 1])) < 0.9).all()
    blinkers.watch(4.0, {0: 1, 1: 0}, start=seconds + 2.0)
    posterior = blinkers.identifier.posterior([0, 1])
    assert posterior[0, 1] > 0.9 and posterior[1, 0] > 0.9


def test_forgotten_track_leaves_nothing_to_the_next_with_its_id() -> None:
    blinkers = Blinkers(seed=4)
    blinkers.watch(10.0, {0: 0})
    blinkers.identifier.forget(0)
    assert blinkers.identifier.posterior([0])[0] == pytest.approx(np.full(3, 1 / 3), abs=1e-6)
    blinkers.watch(0.5, {0: 1}, start=10.0)
    assert blinkers.identifier.posterior([0])[0, 0] < 0.6


def test_pictures_without_peers_say_nothing() -> None:
    blinkers = Blinkers(seed=6)
    blinkers.watch(10.0, {0: 0})
    before = blinkers.identifier.posterior([0])
    blinkers.watch(2.0, {}, start=10.0)
    # But that it may be somebody else by then.
    assert blinkers.identifier.posterior([0]) == pytest.approx(before, abs=0.03)


def test_clock_that_jumps_back_begins_anew() -> None:
    blinkers = Blinkers(seed=5)
    blinkers.watch(10.0, {0: 0})
    blinkers.identifier.see(ns(1.0), [0], np.full((1, 4), 0.5))
    assert blinkers.identifier.posterior([0])[0] == pytest.approx(np.full(3, 1 / 3), abs=1e-6)
