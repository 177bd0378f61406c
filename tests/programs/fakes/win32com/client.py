# ruff: noqa: N802
"""A stand-in for PrairieLink: what bruker_send.py uses of it, over the images in the file $FAKE_IMAGES.

Images (n, lines, pixels) become samples: three per pixel, two of light around the value and one below the offset,
which does not count; odd lines run backwards. They are handed out in pieces that do not end at a frame.
"""

import ctypes
import os

import numpy as np


class Application:
    def __init__(self):
        self.images = np.load(os.environ["FAKE_IMAGES"])
        images = self.images.copy()
        images[:, 1::2] = images[:, 1::2, ::-1]
        light = images[..., None] + np.array([-1, 0, 1]) + 8192
        light[..., 1] = 8000
        self.samples = light.astype(np.int16).ravel()
        self.at = 0
        self.streaming = False

    def Connect(self, address):
        return address == "127.0.0.1"

    def Disconnect(self):
        pass

    def LinesPerFrame(self):
        return self.images.shape[1]

    def PixelsPerLine(self):
        return self.images.shape[2]

    def SamplesPerPixel(self):
        return 3

    def SendScriptCommands(self, text):
        self.streaming = text.startswith("-srd True")
        return True

    def DroppedData(self):
        return False

    def ReadRawDataStream_3(self, pid, address, size):
        assert self.streaming
        assert pid == os.getpid()
        part = self.samples[self.at : self.at + min(size, 1000)]
        ctypes.memmove(address, part.ctypes.data, part.nbytes)
        self.at += part.size
        return part.size


def Dispatch(name):
    assert name == "PrairieLink64.Application"
    return Application()
