"""Errors: one hierarchy, each with what it is about."""


class OrbFeaturesError(Exception):
    """Any error of this package.

    Attributes:
        uri: the file, object or folder that it is about, or None.
        stage: the stage in which it arose: params, source, decode, orb, rows, pca or sink.
        code: a short, stable word for the cause, to count by.
    """

    def __init__(self, message, uri=None, stage=None, code=None):
        super().__init__(message)
        self.uri = uri
        self.stage = stage
        self.code = code

    def __reduce__(self):
        return type(self), (str(self), self.uri, self.stage, self.code)


class ParamError(OrbFeaturesError, ValueError):
    """A parameter, or an array's shape, is not allowed."""


class SourceError(OrbFeaturesError):
    """Images cannot be listed or read."""


class DecodeError(OrbFeaturesError):
    """An image cannot be decoded."""


class ExtractError(OrbFeaturesError):
    """No features can be extracted from an image."""


class PcaError(OrbFeaturesError):
    """A PCA cannot be fitted, or a model is not for these rows."""


class SinkError(OrbFeaturesError):
    """A result cannot be written."""
