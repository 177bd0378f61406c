"""CaImAn online (OnACID): sends the fluorescence of every component to cascade-rt after each frame.

Use it inside your own loop over frames, right behind ``fit_next``::

    sender = CaimanSender(cnm, "tcp://127.0.0.1:5555", frame_rate=30.0)
    for t, frame in enumerate(frames, start=init_batch):
        cnm.fit_next(t, frame.ravel(order="F"))
        sender.send(t)
    sender.close()

with ``cascade-rt run --source "tcp://127.0.0.1:5555?type=pull&bind=true"``. The number of neurons of a run is fixed:
set ``update_num_comps`` to False after the initialisation, or the components found later are left out.
"""

import json

import numpy as np
import zmq


class CaimanSender:
    """Sends ΔF/F of the components that there are when it is made.

    Parameters
    ----------
    cnm : caiman.source_extraction.cnmf.online_cnmf.OnACID
        Initialised.
    address : str
        Where cascade-rt has bound its PULL socket.
    frame_rate : float
        Hz.
    baseline_s : float
        Seconds over which F0 is found.
    """

    def __init__(self, cnm, address, *, frame_rate, baseline_s=30.0, stream="caiman"):
        self.cnm = cnm
        self.rate = frame_rate
        self.stream = stream
        self.n_background = cnm.params.get("init", "nb")
        self.n_neurons = cnm.M - self.n_background
        self.every, self.keep = max(1, round(frame_rate / 2)), max(1, round(2 * baseline_s))
        self.past, self.recent, self.f0 = [], [], None
        self.first = self.sent = None
        self.socket = zmq.Context.instance().socket(zmq.PUSH)
        self.socket.connect(address)

    def fluorescence(self, t):
        """Return what each component emits, with the background that lies below it, (n_neurons,).

        ``noisyC[:, t]`` holds background components, then neurons, before denoising; ``AtA`` the overlaps of all
        spatial components, whose norms are 1. So the overlap with the background tells how much of it a neuron's
        pixels have: the part of F0 that CNMF has taken away.
        """
        nb, n = self.n_background, self.n_neurons
        est = self.cnm.estimates
        values = np.asarray(est.noisyC)[: nb + n, t]
        return values[nb:] + np.asarray(est.AtA)[nb : nb + n, :nb] @ values[:nb]

    def dff(self, values):
        """Return (F - F0) / F0; F0 is the 10th percentile of means of half a second."""
        self.recent.append(values)
        if self.f0 is None or len(self.recent) >= self.every:
            self.past = [*self.past, np.mean(self.recent, axis=0)][-self.keep :]
            self.f0 = np.sort(self.past, axis=0)[int(np.ceil(0.1 * len(self.past))) - 1]
            self.recent = []
        return (values - self.f0) / self.f0

    def send(self, t):
        """Send frame ``t``, as given to ``fit_next``."""
        self.first = t if self.first is None else self.first
        self.sent = t - self.first
        header = {
            "v": 1, "stream": self.stream, "frame": self.sent, "shape": [self.n_neurons, 1], "dtype": "<f4",
            "rate": self.rate,
        }  # fmt: skip
        payload = self.dff(self.fluorescence(t)).astype("<f4").tobytes()
        self.socket.send_multipart([b"dff", json.dumps(header).encode(), payload])

    def close(self):
        """Say that no more frames follow."""
        header = {"v": 1, "stream": self.stream, "frame": 0 if self.sent is None else self.sent + 1}
        self.socket.send_multipart([b"end", json.dumps(header).encode(), b""])
        self.socket.close(3000)
