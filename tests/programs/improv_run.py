"""Runs docs/examples/improv_actor.py as improv would: improv_run.py EXAMPLES DFF SOURCE RESULTS OUT."""

import queue
import sys
import time

import numpy as np

examples, dff_path, source, results, out = sys.argv[1:]
sys.path.insert(0, examples)
from improv_actor import CascadeActor  # noqa: E402


class Store(dict):
    def put(self, value):
        self[len(self)] = value
        return len(self) - 1


dff = np.load(dff_path)
actor = CascadeActor("Cascade", source=source, results=results, frame_rate=30.0)
actor.q_in, actor.q_out, actor.client = queue.Queue(), queue.Queue(), Store()
actor.setup()
found = []
deadline = time.monotonic() + 60
for frame in dff.T:
    actor.q_in.put(actor.client.put(frame.copy()))
    actor.run_step()
while len(found) < dff.shape[1] - 2 and time.monotonic() < deadline:
    actor.run_step()
    while not actor.q_out.empty():
        found.append(actor.client[actor.q_out.get()])
actor.stop()
np.savez(out, frame=[frame for frame, _ in found], values=np.array([values for _, values in found]).T)
