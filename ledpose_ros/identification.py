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
# After so long a mistaken identity is half forgotten [s].
HALF_LIFE = 20.0
# How long a picture waits for the LED messages that tell what was lit in it [s].
PATIENCE = 2.0
# Rounds of belief propagation; the marginals of a few peers settle within ten.
ROUNDS = 20


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
    LEDs that the network cannot see have q_k = 1/2 and say nothing.
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
        for known in self._evidence:
            self._evidence[known] *= 0.5 ** (elapsed / HALF_LIFE)
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

        No peer is in two places: marginals of all ways to assign peers to tracks, by belief propagation
        (Williams and Lau, *Approximate evaluation of marginal association probabilities with belief
        propagation*, IEEE Transactions on Aerospace and Electronic Systems, 2014).
        """
        nobody = np.zeros(len(self.names))
        evidence = np.array([self._evidence.get(track_id, nobody) for track_id in ids])
        likelihood = np.exp(np.clip(evidence.reshape(len(ids), len(self.names)), -300.0, 300.0))
        other_peers, other_tracks = (1 - np.eye(count) for count in likelihood.shape[::-1])
        from_peers = np.ones_like(likelihood)
        for _ in range(ROUNDS):
            from_tracks = likelihood / (1 + (likelihood * from_peers) @ other_peers)
            from_peers = 1 / (1 + other_tracks @ from_tracks)
        weighed = np.column_stack([likelihood * from_peers, np.ones(len(ids))])
        return np.asarray(weighed / weighed.sum(1, keepdims=True))

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
