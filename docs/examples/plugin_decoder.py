"""A plug-in for `cascade-rt run --rules`: a decoder that adapts to what it sees.

In the rule file::

    rules:
      decoder:
        plugin: plugin_decoder.py:Decoder
        options: {neurons: [3, 17, 42], against_s: 60, sigmas: 4}
        refractory_s: 2
        sham: 0.2

The class runs in a process of its own. It may be slow, and it may fail: the run goes on.
"""

from __future__ import annotations

import math


class Decoder:
    """Fires when the mean of some neurons is far above what it usually is.

    Parameters
    ----------
    info : dict
        ``n_neurons``, ``frame_rate_hz``, ``lookahead``, ``lookaheads``, ``first_frame``, ``stream``.
    neurons, against_s, sigmas
        The options of the rule file.
    """

    def __init__(self, info, *, neurons, against_s=60.0, sigmas=4.0):
        beyond = [n for n in neurons if not 0 <= n < info["n_neurons"]]
        if beyond:
            raise ValueError(f"neuron {beyond[0]}: the run has {info['n_neurons']}")
        self.neurons = list(neurons)
        self.sigmas = sigmas
        self.n_usual = against_s * info["frame_rate_hz"]
        self.reset()

    def reset(self):
        """The source counts anew, or frames are missing: what follows does not join on to what was."""
        self.seen = 0
        self.mean = self.square = 0.0
        self.above = False

    def process(self, chunk):
        """Look at new results: chunk.spike_prob and chunk.valid are arrays (n_neurons, n_frames)."""
        if chunk.provisional:
            return []
        events = []
        for column in range(chunk.n_frames):
            if not chunk.valid[self.neurons, column].all():
                continue
            value = float(chunk.spike_prob[self.neurons, column].mean())
            deviation = math.sqrt(max(self.square - self.mean**2, 1e-12))
            above = self.seen >= self.n_usual and value > self.mean + self.sigmas * deviation
            if above and not self.above:
                events.append({"frame": chunk.first_frame + column, "value": value, "data": {"usual": self.mean}})
            self.above = above
            self.seen += 1
            share = 1 / min(self.seen, self.n_usual)
            self.mean += share * (value - self.mean)
            self.square += share * (value**2 - self.square)
        return events

    def save(self):
        """What is worth keeping; it is stored in the summary of the run."""
        return {"seen": self.seen, "mean": self.mean}
