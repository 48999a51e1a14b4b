"""What a user can do wrong.  Raised in the user's words, mapped to exit codes and HTTP in one place each.

KompaktError
├── AudioError              the audio cannot be used
│   ├── EmptyAudio          no samples
│   ├── UnsupportedAudio    not one of the audio containers we read
│   ├── CorruptAudio        the container is known, its content does not decode
│   └── AudioTooLong        longer than the limit
├── LanguageError           a target language we do not translate into
├── CheckpointError         a directory that is no usable checkpoint
└── RecipeError             a recipe, manifest or setting that contradicts itself or the data
"""

from __future__ import annotations


class KompaktError(Exception):
    """Base of every error a user can cause; its message is shown to them as it is."""


class AudioError(KompaktError):
    """The audio cannot be used."""


class EmptyAudio(AudioError):  # noqa: N818 - named for what it says, as the tree above reads
    """The audio holds no samples."""


class UnsupportedAudio(AudioError):  # noqa: N818
    """Not one of the containers we read."""


class CorruptAudio(AudioError):  # noqa: N818
    """The container is known but its content does not decode."""


class AudioTooLong(AudioError):  # noqa: N818
    """Longer than the limit the caller set."""


class LanguageError(KompaktError):
    """A target language that is not offered."""


class CheckpointError(KompaktError):
    """A directory that is no usable checkpoint."""


class RecipeError(KompaktError):
    """A recipe, manifest or setting that contradicts itself or the data."""
