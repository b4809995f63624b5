"""Errors that the user can mend. Tools print them as one line, without a traceback."""


class ShdVitError(Exception):
    """Base of all errors below."""


class ConfigError(ShdVitError, ValueError):
    """A field of the configuration has a value that cannot work."""


class UnsupportedAttention(ConfigError):
    """An attention module whose maps cannot be reproduced exactly from its inputs."""


class CheckpointError(ShdVitError, RuntimeError):
    """A checkpoint is missing, damaged, does not fit the model, or asks to run code."""


class DatasetError(ShdVitError, RuntimeError):
    """A data set's file is missing, damaged or unfinished, or a sample cannot be read."""


class NonFiniteLoss(ShdVitError, FloatingPointError):
    """A loss became NaN or infinite."""
