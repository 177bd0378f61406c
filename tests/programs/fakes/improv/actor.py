"""A stand-in for improv: what improv_actor.py uses of an actor, its queues and its store."""


class Actor:
    def __init__(self, *args, **kwargs):
        self.q_in = self.q_out = self.client = None
