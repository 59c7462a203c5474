"""The exception tree. Everything this project raises on purpose for data, files or requests.

    RouterError
    ├── ArtifactError     an artifact directory is missing, damaged, foreign or of another version
    ├── EncoderError      an encoder directory is missing, damaged or gives the wrong kind of vector
    ├── PromptError       a prompt or its messages cannot be read
    ├── PolicyError       the request's constraints leave no model to choose from
    ├── ConfigError       a setting, profile file or option is wrong
    └── DataError         a training source cannot be read, or too little of it is usable

A caller's programming mistake (a wrong type, a negative count) is a ``ValueError`` instead.
Running out of latency budget is no error: the answer says ``budget_met: false``.
"""


class RouterError(Exception):
    """Base of all errors that a user of the project can cause and mend."""


class ArtifactError(RouterError):
    """An artifact directory is missing, damaged, foreign or of another version."""


class EncoderError(RouterError):
    """An encoder directory is missing, damaged or gives the wrong kind of vector."""


class PromptError(RouterError):
    """A prompt or its messages cannot be read."""


class PolicyError(RouterError):
    """The request's constraints leave no model to choose from."""


class ConfigError(RouterError):
    """A setting, a profile file or an option is wrong."""


class DataError(RouterError):
    """A training source cannot be read, or too little of it is usable."""
