"""improv: an actor that passes ΔF/F on to cascade-rt and puts the spike probabilities into the store.

In the configuration of the experiment::

    actors:
      Cascade:
        package: actors.improv_actor
        class: CascadeActor
        source: tcp://127.0.0.1:5555
        results: tcp://127.0.0.1:5556
        frame_rate: 30.0
    connections:
      Processor.q_out: [Cascade.q_in]
      Cascade.q_out: [Visual.q_in]

The actor before it puts one array (n_neurons,) of ΔF/F per frame into the store, and its id into the queue. Start, in a
shell of its own::

    cascade-rt run --source "tcp://127.0.0.1:5555?type=pull&bind=true" \
        --sink "tcp://127.0.0.1:5556?type=push&bind=true" ...
"""

import json
import logging
import queue

import numpy as np
import zmq
from improv.actor import Actor

logger = logging.getLogger(__name__)


class CascadeActor(Actor):
    """Sends each frame, and takes the results that have come meanwhile."""

    def __init__(self, *args, source="tcp://127.0.0.1:5555", results="tcp://127.0.0.1:5556", frame_rate=30.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.addresses = source, results
        self.frame_rate = float(frame_rate)

    def setup(self):
        """Connect, in the actor's own process."""
        self.frame_number = 0
        self.lookahead = None
        self.context = zmq.Context()
        self.to_run, self.from_run = self.context.socket(zmq.PUSH), self.context.socket(zmq.PULL)
        self.to_run.connect(self.addresses[0])
        self.from_run.connect(self.addresses[1])

    def runStep(self):  # noqa: N802 - as improv calls it
        """One step: a frame, if there is one, and all results that are there."""
        try:
            item = self.q_in.get(timeout=0.005)
        except (queue.Empty, TimeoutError):
            item = None
        if item is not None:
            self.send(np.asarray(self.fetch(item)))
        while self.from_run.poll(0):
            self.take(self.from_run.recv_multipart())

    run_step = runStep  # the name in improv 0.3 and later

    def fetch(self, item):
        """Return the array behind an id; older versions of improv put a list of (id, name)."""
        return self.client.getID(item[0][0]) if isinstance(item, (list, tuple)) else self.client.get(item)

    def send(self, dff):
        """Send one frame, (n_neurons,)."""
        header = {
            "v": 1, "stream": "improv", "frame": self.frame_number, "shape": [dff.size, 1], "dtype": "<f4",
            "rate": self.frame_rate,
        }  # fmt: skip
        self.to_run.send_multipart([b"dff", json.dumps(header).encode(), dff.astype("<f4").tobytes()])
        self.frame_number += 1

    def take(self, parts):
        """Put a result into the store: (index of the frame that it describes, values of all neurons)."""
        if parts[0] != b"spike_prob":
            return
        header = json.loads(parts[1])
        self.lookahead = header["lookahead"] if self.lookahead is None else self.lookahead
        if header["lookahead"] != self.lookahead:  # a revision of what is known already
            return
        values = np.frombuffer(parts[2], "<f4").reshape(header["shape"])
        for column in range(header["shape"][1]):
            frame = header["frame"] + column
            self.q_out.put(self.client.put((frame, values[:, column].copy())))

    def stop(self):
        """Say that no more frames follow."""
        header = {"v": 1, "stream": "improv", "frame": self.frame_number}
        self.to_run.send_multipart([b"end", json.dumps(header).encode(), b""])
        self.to_run.close(3000)
        self.from_run.close(0)
        self.context.term()
        logger.info("%d frames sent", self.frame_number)
