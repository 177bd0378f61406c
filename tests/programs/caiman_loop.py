"""Runs docs/examples/caiman_online_send.py behind a stand-in for OnACID: caiman_loop.py EXAMPLES F ADDRESS.

F: fluorescence (n_neurons, n_frames). The stand-in splits it into two background components and neurons, as CNMF does.
"""

import sys
from types import SimpleNamespace

import numpy as np

examples, path, address = sys.argv[1:]
sys.path.insert(0, examples)
from caiman_online_send import CaimanSender  # noqa: E402

fluorescence = np.load(path)
n, n_frames = fluorescence.shape
overlap = np.random.default_rng(0).random((n, 2))
background = 1 + 0.1 * np.random.default_rng(1).random((2, n_frames))
norms = np.eye(n + 2)
norms[2:, :2], norms[:2, 2:] = overlap, overlap.T
start = 20  # frames of the initialisation
estimates = SimpleNamespace(noisyC=np.zeros((n + 5, start + n_frames)), AtA=norms)
cnm = SimpleNamespace(M=n + 2, estimates=estimates, params=SimpleNamespace(get=lambda group, name: 2))
sender = CaimanSender(cnm, address, frame_rate=30.0, baseline_s=2.0)
for t in range(start, start + n_frames):
    estimates.noisyC[:2, t] = background[:, t - start]
    estimates.noisyC[2 : n + 2, t] = fluorescence[:, t - start] - overlap @ background[:, t - start]
    if t == start + 50:
        cnm.M += 1  # a component that was found later
    sender.send(t)
sender.close()
