"""Every error that cascade_rt raises on purpose.

::

    CascadeError
    ├── InputError (ValueError)      the data or an option given is not usable: shape, units, frame rate
    ├── ModelError                   a model cannot be used
    │   ├── ModelNotFoundError       no bundle of that name or at that path
    │   └── BundleError              a bundle is damaged or incomplete: names the bundle and the file
    ├── DeviceError                  the device asked for cannot run the model
    ├── FileFormatError              a file is unreadable, truncated or of another format
    ├── OutputExistsError            an output is there already and overwriting was not asked for
    ├── DownloadError                a published model could not be fetched whole
    ├── WireError                    a message does not follow the wire format; ``reason`` is a short label
    ├── StreamError                  a stream broke its declaration, or a gap came under the policy "stop"
    └── TrainingError                ground truth or a training configuration is not usable

Warnings that a user should act on are :class:`CascadeWarning`.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "CascadeError",
    "CascadeWarning",
    "DeviceError",
    "DownloadError",
    "FileFormatError",
    "InputError",
    "ModelError",
    "ModelNotFoundError",
    "OutputExistsError",
    "StreamError",
    "TrainingError",
    "WireError",
]


class CascadeError(Exception):
    """Base of every error raised on purpose by this project."""


class InputError(CascadeError, ValueError):
    """Data or an option is not usable as given."""


class ModelError(CascadeError):
    """A model cannot be used."""


class ModelNotFoundError(ModelError):
    """No bundle has that name or path."""


class BundleError(ModelError):
    """A bundle is damaged, incomplete or of an unknown version."""


class DeviceError(CascadeError):
    """The device asked for cannot run the model."""


class FileFormatError(CascadeError):
    """A file is unreadable, truncated or not of the expected format."""


class OutputExistsError(CascadeError):
    """An output exists and overwriting was not asked for."""


class DownloadError(CascadeError):
    """A published model could not be fetched completely."""


class WireError(CascadeError):
    """A message does not follow the wire format.

    Parameters
    ----------
    reason : str
        Short label under which such messages are counted, for example ``"shape"``.
    message : str
        What was seen and what was expected.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class StreamError(CascadeError):
    """A stream broke its declaration, or met a gap under the policy ``"stop"``."""


class TrainingError(CascadeError):
    """Ground truth or a training configuration is not usable."""


class CascadeWarning(UserWarning):
    """Something the user should look at, though the run went on."""
