"""The fake stream of cascade_rt.testing behaves as the real one with a network that picks its described frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import loaded, picking_network

from cascade_rt.stream import SpikeStream
from cascade_rt.testing import FakeModel, FakeStream, fake_spec

LOOKAHEADS = (0, 2, 7)
NU = np.array([2.0, 3.0])


@pytest.fixture(scope="module")
def streams():
    window = 16
    network = picking_network(window, LOOKAHEADS)
    model = loaded(network, LOOKAHEADS)
    assert model.spec.windowsize == window
    fake = FakeModel(spec=fake_spec(windowsize=window, lookaheads=LOOKAHEADS))

    def make(lookaheads):
        options = {"n_neurons": 2, "frame_rate_hz": 30.0, "noise_levels": NU, "lookahead_frames": lookaheads}
        return SpikeStream(model, threshold="none", **options), FakeStream(fake, **options)

    return make


steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 25), st.booleans()),
        st.tuples(st.just("skip"), st.integers(0, 1000), st.just(False)),
        st.tuples(st.just("nan"), st.integers(1, 3), st.just(False)),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(steps=steps, lookaheads=st.sets(st.sampled_from(LOOKAHEADS), min_size=1))
def test_the_fake_does_as_the_real_one(streams, steps, lookaheads):
    real, fake = streams(sorted(lookaheads))
    rng = np.random.default_rng(0)
    for kind, n, touched in [*steps, ("flush", 0, False)]:
        if kind == "skip":
            pair = real.skip(n), fake.skip(n)
        elif kind == "flush":
            pair = real.flush(), fake.flush()
        else:
            frames = rng.random((2, n)).astype(np.float32)
            if kind == "nan":
                frames[0] = np.nan
            pair = real.push(frames, touched=touched), fake.push(frames, touched=touched)
        assert real.frame == fake.frame
        check_same(*pair)
        assert list(pair[0].revisions) == list(pair[1].revisions)
        for lookahead in pair[0].revisions:
            check_same(pair[0].revisions[lookahead], pair[1].revisions[lookahead])


def check_same(real, fake):
    assert real.lookahead_frames == fake.lookahead_frames
    assert real.n_frames == fake.n_frames
    if real.n_frames:
        assert real.first_frame == fake.first_frame
    np.testing.assert_allclose(real.spike_prob, fake.spike_prob, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(real.valid, fake.valid)
    assert real.provisional == fake.provisional
