"""Programs killed at random moments while they write results: what is there can be read, and is right."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cascade_rt
from cascade_rt.results import ResultAppender, ResultWriter, open_result
from cascade_rt.testing import ramp

KILLS = 24
SHAPES = {"plane0": (30, 400), "plane1": (12, 90)}
N_NEURONS, LOOKAHEADS = 5, (2, 7)

#: Writes results one after the other, and says what is done: round, plane and row; then that the round is.
WRITER = """
import sys
from pathlib import Path
import numpy as np
from cascade_rt.results import ResultWriter
from cascade_rt.testing import ramp

shapes = eval(sys.argv[2])
for number in range(1000):
    with ResultWriter(Path(sys.argv[1]), {"round": number, "text": "x" * 70_000}, overwrite=True) as writer:
        for name, shape in shapes.items():
            values = ramp(*shape) + number
            target = writer.begin(name, *shape, frame_rate_hz=30.0)
            for row in np.random.default_rng(number).permutation(shape[0]):
                target.write([row], values[[row]], spikes=[[row]])
                print(number, name, row, flush=True)
            target.set(why_undefined=[f"{name} {row}" for row in range(shape[0])])
        writer.finish({"late": "y" * (number % 2) * 300_000})
    print(number, "end", 0, flush=True)
"""

#: Appends to one file for ever, and says which frame is sure to be there; finishes and goes on now and then.
APPENDER = """
import sys
from pathlib import Path
import numpy as np
from cascade_rt.chunks import SpikeChunk
from cascade_rt.results import ResultAppender
from cascade_rt.testing import ramp

path, n_neurons, lookaheads = Path(sys.argv[1]), int(sys.argv[2]), eval(sys.argv[3])
rng = np.random.default_rng(int(sys.argv[4]))
while True:
    with ResultAppender(path, n_neurons, {"model": "m"}, lookaheads=lookaheads, append=True) as appender:
        frame = appender.next_frame
        for _ in range(40):
            n = int(rng.integers(1, 9))
            for lookahead in lookaheads:
                prob = ramp(n_neurons, n, frame)
                valid = prob >= 0
                appender.append(
                    SpikeChunk(spike_prob=prob, first_frame=frame, valid=valid, lookahead_frames=lookahead)
                )
            frame += n
            if rng.random() < 0.7:
                appender.sync()
                print(frame, flush=True)
        appender.finish({"many": "z" * int(rng.integers(0, 100_000))})
        print(frame, flush=True)
"""


def run_and_kill(code: str, *arguments: object, lines: int) -> list[list[str]]:
    """Start a program, kill it after that many lines, and return all that it said before it died."""
    environment = {**os.environ, "PYTHONPATH": str(Path(cascade_rt.__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True) as child:
        said = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        # Not communicate(): it does not see what readline() has read ahead, and would tear a line in two.
        rest, errors = child.stdout.read(), child.stderr.read()
    assert not errors, errors
    # The last line may be torn.
    return [line.split() for line in ("".join(said) + rest).splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_writers_leave_what_they_had_written(tmp_path):
    path, work = tmp_path / "a.h5", tmp_path / "a.incomplete.h5"
    chance = random.Random(1)
    seen = {"incomplete": 0, "complete": 0}
    per_round = sum(n_neurons for n_neurons, _ in SHAPES.values()) + 1
    for _ in range(KILLS):
        said = run_and_kill(WRITER, path, SHAPES, lines=chance.randrange(1, 3 * per_round))
        for file in (path, work):
            if not file.exists():
                continue
            with open_result(file) as result:
                number = result.metadata["round"]
                assert file == work or result.complete
                seen["complete" if result.complete else "incomplete"] += 1
                done = {}
                for plane in result:
                    values = ramp(*SHAPES[plane.name]) + np.float32(number)
                    done[plane.name] = plane.done
                    np.testing.assert_array_equal(plane.spike_prob[:][plane.done], values[plane.done])
                    assert plane.spikes is None or [one.tolist() for one in plane.spikes] == [
                        [row] for row in range(plane.n_neurons)
                    ]
                if result.complete:
                    assert set(done) == set(SHAPES)
                    assert all(flags.all() for flags in done.values())
                    assert all(plane.spikes is not None for plane in result)
                    assert result["plane1"].why_undefined[-1] == "plane1 11"
                    assert len(result.metadata["late"]) == (number % 2) * 300_000
                for spoken, plane, row in said:
                    assert int(spoken) != number or plane == "end" or done[plane][int(row)], "said to be there"
        ended = [int(number) for number, plane, _ in said if plane == "end"]
        if ended:
            with open_result(path) as result:
                assert result.metadata["round"] >= ended[-1]
    assert min(seen.values()) > 3, f"both kinds were met: {seen}"
    with ResultWriter(path, {}, overwrite=True) as writer:
        writer.begin("", 2, 3).write([0, 1], ramp(2, 3))
        writer.finish()
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"], "nothing of the killed is left"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_stream_survives_being_killed_and_continued(tmp_path):
    path, work = tmp_path / "a.h5", tmp_path / "a.incomplete.h5"
    chance = random.Random(2)
    sure = 0
    for number in range(KILLS):
        said = run_and_kill(APPENDER, path, N_NEURONS, LOOKAHEADS, number, lines=chance.randrange(1, 70))
        sure = int(said[-1][0])
        files = [file for file in (path, work) if file.exists()]
        assert files
        for file in files:
            with open_result(file) as result:
                assert result.metadata["model"] == "m"
                for part in (result.recordings[0], result.revisions[2]):
                    check_stream(part, sure)
    with ResultAppender(path, N_NEURONS, {}, lookaheads=LOOKAHEADS, append=True) as appender:
        assert appender.next_frame >= sure
        appender.finish()
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]
    with open_result(path) as result:
        assert result.complete
        check_stream(result.recordings[0], sure)
        assert result.n_frames > KILLS * 20


def check_stream(part, sure):
    """Every frame up to ``sure`` is there, once, with its values; frames may be missing only where one was killed."""
    frames = part.frames
    assert frames[-1] >= sure - 1
    assert (np.diff(frames) > 0).all()
    assert (np.diff(frames) > 1).sum() <= KILLS
    np.testing.assert_array_equal(part.spike_prob[:], ramp(N_NEURONS, int(frames[-1]) + 1)[:, frames])
    assert part.valid[:].all()
