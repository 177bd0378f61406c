"""An LSL device and a reader of results, with pylsl alone.

lsl_device.py DFF NAME RESULTS OUT: an outlet NAME whose samples are stamped 1/30 s apart; the samples 100 to 104 are
never sent. Reads the stream RESULTS meanwhile, and says what it got.
"""

import sys
import time

import numpy as np
import pylsl

dff, name, results, out = np.load(sys.argv[1]), *sys.argv[2:]
info = pylsl.StreamInfo(name, "DFF", dff.shape[0], 30.0, pylsl.cf_float32, f"{name}-id")
outlet = pylsl.StreamOutlet(info)
if not outlet.wait_for_consumers(60):
    sys.exit("nobody reads")
start = pylsl.local_clock()
outlet.push_sample(dff[:, 0].tolist(), start)
found = pylsl.resolve_byprop("name", results, 1, 60)
if not found:
    sys.exit("no results appear")
inlet = pylsl.StreamInlet(found[0])
inlet.open_stream(60)
described = inlet.info(60)
samples, stamps = [], []


def collect(timeout):
    sample, stamp = inlet.pull_sample(timeout)
    while sample is not None:
        samples.append(sample)
        stamps.append(stamp)
        sample, stamp = inlet.pull_sample(0.0)


for n in range(1, dff.shape[1]):
    if not 100 <= n < 105:
        outlet.push_sample(dff[:, n].tolist(), start + n / 30)
    if n % 10 == 0:
        time.sleep(0.005)
        collect(0.0)
deadline = time.monotonic() + 4
while time.monotonic() < deadline:
    try:
        collect(0.2)
    except RuntimeError:
        break
channel = described.desc().child("channels").child("channel")
np.savez(
    out,
    values=np.array(samples).T,
    frame=(np.array(stamps) - start) * 30,
    type=described.type(),
    rate=described.nominal_srate(),
    label=channel.child_value("label"),
    lookahead=described.desc().child_value("lookahead_frames"),
    model=described.desc().child_value("model"),
)
