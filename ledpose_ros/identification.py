# SPDX-License-Identifier: Apache-2.0
"""Who is who: peers that broadcast their LED states are told apart by the LEDs that the network sees lit."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ledpose_ros.leds import HeldState, LedHistory, Rejection

# However sure the network is of an LED, one time in so many it is wrong: a single one decides nothing.
LEAST_DOUBT = 0.03
# Pictures that follow each other faster than LEDs change repeat the same errors: evidence of more than so
# many a second counts as that of so many.
EVIDENCE_RATE = 5.0
# About once in so long [s] a track comes to be of somebody else: one robot hides another for a moment.
SWAP_TIME = 60.0
# How long a picture waits for the LED messages that tell what was lit in it [s].
PATIENCE = 2.0
# Evidence beyond this is certainty, and more would overflow [nats].
MOST_EVIDENCE = 50.0


@dataclass
class _Seen:
    """LED probabilities (T, K) of the tracks `ids` in a picture; peers in `open` are still to be asked."""

    stamp_ns: int
    ids: tuple[int, ...]
    led_probability: np.ndarray
    weight: float
    open: set[int]


class PeerIdentifier:
    """Matches what tracked peers show with what named peers say they show.

    For a track that shows its LEDs on with probabilities q_k while a peer says s_k, the evidence for this
    peer, against a stranger who blinks at random, is sum_k log P(s_k | q_k) / (1/2). It adds up over time;
    LEDs that the network cannot see have q_k = 1/2 and say nothing. Whose a track is is the state of a hidden
    Markov model (Rabiner, *A tutorial on hidden Markov models*, Proceedings of the IEEE, 1989) that may
    change to anybody's: however long a track was one peer's, a few pictures tell that it is no more.
    """

    def __init__(self, names: Sequence[str], histories: Sequence[LedHistory]) -> None:
        self.names = tuple(names)
        self._histories = tuple(histories)
        self._evidence: dict[int, np.ndarray] = {}
        self._waiting: deque[_Seen] = deque()
        self._stamp_ns: int | None = None
        # For each peer: how many pictures were compared with what it says, and why the last one was not.
        self.compared = [0] * len(self.names)
        self.rejections: list[Rejection | None] = [None] * len(self.names)

    def see(self, stamp_ns: int, ids: Sequence[int], led_probability: np.ndarray) -> None:
        """Take in a picture: the tracks in it and their LEDs' on-probabilities (T, K).

        Stamps that go backwards begin everything anew. An id that comes up anew must be forgotten first.
        """
        if self._stamp_ns is not None and stamp_ns < self._stamp_ns:
            self._evidence.clear()
            self._waiting.clear()
            self._stamp_ns = None
        elapsed = math.inf if self._stamp_ns is None else (stamp_ns - self._stamp_ns) / 1e9
        self._stamp_ns = stamp_ns
        swapped = -math.expm1(-elapsed / SWAP_TIME)
        for known, evidence in self._evidence.items():
            self._evidence[known] = _mixed(evidence, swapped)
        for track_id in ids:
            self._evidence.setdefault(track_id, np.zeros(len(self.names)))
        if len(ids):
            weight = min(1.0, elapsed * EVIDENCE_RATE)
            everybody = set(range(len(self.names)))
            self._waiting.append(_Seen(stamp_ns, tuple(ids), np.asarray(led_probability), weight, everybody))
        self._weigh()

    def forget(self, track_id: int) -> None:
        """A track has ended; its id may be given to somebody else."""
        self._evidence.pop(track_id, None)
        for seen in self._waiting:
            seen.ids = tuple(-1 if known == track_id else known for known in seen.ids)

    def posterior(self, ids: Sequence[int]) -> np.ndarray:
        """Probability (T, P + 1) that each of these tracks is each named peer, or, last, a stranger.

        No peer is in two places, so these are marginals of all ways to assign peers to tracks: exact, by
        dynamic programming over the sets of tracks that are taken.
        """
        nobody = np.zeros(len(self.names))
        evidence = np.array([self._evidence.get(track_id, nobody) for track_id in ids])
        evidence = np.clip(evidence.reshape(len(ids), len(self.names)), -MOST_EVIDENCE, MOST_EVIDENCE)
        named = assignment_marginals(np.exp(evidence))
        return np.column_stack([named, np.maximum(0.0, 1 - named.sum(1))])

    def _weigh(self) -> None:
        """Ask the LED histories about the pictures that wait."""
        assert self._stamp_ns is not None
        for seen in self._waiting:
            for peer in tuple(seen.open):
                held = self._histories[peer].lookup(seen.stamp_ns)
                if held is Rejection.NEWER:
                    continue
                seen.open.remove(peer)
                if isinstance(held, HeldState):
                    self._add(seen, peer, held.states)
                    self.compared[peer] += 1
                    self.rejections[peer] = None
                else:
                    self.rejections[peer] = held
        oldest_ns = self._stamp_ns - PATIENCE * 1e9
        while self._waiting and self._waiting[0].stamp_ns < oldest_ns:
            for peer in self._waiting.popleft().open:
                self.rejections[peer] = Rejection.NEWER
        self._waiting = deque(seen for seen in self._waiting if seen.open)

    def _add(self, seen: _Seen, peer: int, states: np.ndarray) -> None:
        on = np.clip(seen.led_probability, LEAST_DOUBT, 1 - LEAST_DOUBT)
        agreement = np.where(states > 0.5, on, 1 - on)
        for track_id, value in zip(seen.ids, np.log(2 * agreement).sum(1), strict=True):
            if track_id in self._evidence:
                self._evidence[track_id][peer] += seen.weight * value


def _mixed(evidence: np.ndarray, share: float) -> np.ndarray:
    """Evidence (P,) for each peer, against a stranger, after a time in which this share became anybody's."""
    odds = np.exp(np.append(evidence, 0.0) - max(0.0, evidence.max()))
    probability = (1 - share) * odds / odds.sum() + share / len(odds)
    return np.asarray(np.log(probability[:-1] / probability[-1]))


def assignment_marginals(weights: np.ndarray) -> np.ndarray:
    """Probability (T, P) that track t is peer p if each peer is one track at most, and each track one peer.

    An assignment weighs as much as the product of the `weights` (T, P) of its pairs. Takes time and memory of
    2^T: a picture has a dozen tracks at most.
    """
    tracks, peers = weights.shape
    sets = np.arange(2**tracks)[:, None]  # of tracks, one bit each
    is_free = (sets >> np.arange(tracks)) & 1 == 0
    with_one_more = sets | 1 << np.arange(tracks)
    # Weights of all that the later peers, and the earlier ones, can be where these tracks are taken before.
    later = [np.ones(2**tracks)]
    for peer in range(peers - 1, 0, -1):
        later.append(later[-1] + (is_free * weights[:, peer] * later[-1][with_one_more]).sum(1))
    earlier = np.zeros(2**tracks)
    earlier[0] = 1.0
    marginals = np.zeros((tracks, peers))
    for peer in range(peers):
        pairs = is_free * weights[:, peer] * earlier[:, None]
        after = later.pop()
        marginals[:, peer] = (pairs * after[with_one_more]).sum(0)
        total = earlier @ after + marginals[:, peer].sum()
        marginals[:, peer] /= total
        np.add.at(earlier, with_one_more, pairs)
    return marginals
