"""Bruker: reads PrairieView's raw data stream, takes the mean of each ROI, makes ΔF/F, sends it to cascade-rt.

Runs on the PrairieView PC (Windows), with pywin32, pyzmq and numpy. One channel active, raster scan::

    cascade-rt run --source "tcp://127.0.0.1:5555?type=pull&bind=true" ...
    python bruker_send.py --rois labels.npy --frame-rate 30

``labels.npy``: integers (lines, pixels), 0 outside, 1 to N for the pixels of each neuron, in the orientation of the
image that PrairieView shows.
"""

import argparse
import ctypes
import json
import os
import sys
import time

import numpy as np
import zmq

OFFSET = 8192  # value of a dark sample; what is below it PrairieView leaves out of its means


class Stream:
    """Whole frames of PrairieView's raw data stream."""

    def __init__(self, address: str, buffer_frames: int = 100) -> None:
        import win32com.client  # pywin32

        self.link = win32com.client.Dispatch("PrairieLink64.Application")
        self.link.Connect(address)
        self.shape = self.link.LinesPerFrame(), self.link.PixelsPerLine(), self.link.SamplesPerPixel()
        self.size = int(np.prod(self.shape))
        self.buffer = (ctypes.c_int16 * (self.size * buffer_frames))()
        self.rest = np.empty(0, np.int16)
        self.link.SendScriptCommands(f"-srd True {buffer_frames}")

    def read(self) -> np.ndarray:
        """Return the frames that have come, (n_frames, lines, pixels, samples)."""
        count = self.link.ReadRawDataStream_3(os.getpid(), ctypes.addressof(self.buffer), len(self.buffer))
        if self.link.DroppedData():
            sys.exit("PrairieView has dropped data: frames can no longer be counted. Start again.")
        samples = np.concatenate([self.rest, np.ctypeslib.as_array(self.buffer)[:count]])
        n_frames = samples.size // self.size
        self.rest = samples[n_frames * self.size :]
        return samples[: n_frames * self.size].reshape(n_frames, *self.shape)

    def close(self) -> None:
        self.link.SendScriptCommands("-srd False")
        self.link.Disconnect()


def image(frame: np.ndarray, flip: str) -> np.ndarray:
    """Mean of the samples of each pixel, (lines, pixels), with the lines that were scanned backwards turned round."""
    light = frame.astype(np.float32) - OFFSET
    used = light >= 0
    pixels = np.where(used, light, 0).sum(axis=2) / np.maximum(used.sum(axis=2), 1)
    start = {"odd": 1, "even": 0, "none": len(pixels)}[flip]
    pixels[start::2] = pixels[start::2, ::-1]
    return pixels


class Baseline:
    """F0: 10th percentile of means of half a second, over the last seconds."""

    def __init__(self, seconds: float, rate: float) -> None:
        self.every, self.keep = max(1, round(rate / 2)), round(2 * seconds)
        self.past: list[np.ndarray] = []
        self.recent: list[np.ndarray] = []
        self.f0 = np.empty(0)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        if not self.keep:
            return values
        self.recent.append(values)
        if not self.f0.size or len(self.recent) >= self.every:
            self.past = [*self.past, np.mean(self.recent, axis=0)][-self.keep :]
            self.f0 = np.sort(self.past, axis=0)[int(np.ceil(0.1 * len(self.past))) - 1]
            self.recent = []
        return (values - self.f0) / self.f0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rois", required=True)
    parser.add_argument("--frame-rate", type=float, required=True)
    parser.add_argument("--to", default="tcp://127.0.0.1:5555", help="where cascade-rt has bound its PULL socket")
    parser.add_argument("--prairie", default="127.0.0.1", help="address of PrairieView")
    parser.add_argument("--flip", choices=("odd", "even", "none"), default="odd", help="lines scanned backwards")
    parser.add_argument("--baseline-s", type=float, default=30.0, help="0: send mean values instead of ΔF/F")
    parser.add_argument("--frames", type=int, default=0, help="stop after so many (0: at Ctrl-C)")
    args = parser.parse_args()

    labels = np.load(args.rois).ravel()
    n_neurons = int(labels.max())
    n_pixels = np.bincount(labels, minlength=n_neurons + 1)[1:]
    to_dff = Baseline(args.baseline_s, args.frame_rate)
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.connect(args.to)
    stream = Stream(args.prairie)
    if labels.size != stream.shape[0] * stream.shape[1]:
        sys.exit(f"{args.rois} has {labels.size} pixels, the image {stream.shape[0]} x {stream.shape[1]}")
    index = 0
    try:
        while not args.frames or index < args.frames:
            frames = stream.read()
            if not len(frames):
                time.sleep(0.001)
            for frame in frames:
                pixels = image(frame, args.flip).ravel()
                values = np.bincount(labels, pixels, minlength=n_neurons + 1)[1:] / n_pixels
                header = {
                    "v": 1, "stream": "bruker", "frame": index, "shape": [n_neurons, 1], "dtype": "<f4",
                    "rate": args.frame_rate,
                }  # fmt: skip
                socket.send_multipart([b"dff", json.dumps(header).encode(), to_dff(values).astype("<f4").tobytes()])
                index += 1
    except KeyboardInterrupt:
        pass
    finally:
        socket.send_multipart([b"end", json.dumps({"v": 1, "stream": "bruker", "frame": index}).encode(), b""])
        stream.close()
        socket.close(3000)


if __name__ == "__main__":
    main()
