"""The exception tree. Everything this project raises on purpose for data, files or requests.

    RouterError
    ├── ArtifactError     an artifact directory is missing, damaged, foreign or of another version
    ├── EncoderError      an encoder directory is missing, damaged or gives the wrong kind of vector
    ├── PromptError       a prompt or its messages cannot be read
    ├── PolicyError       the request's constraints leave no model to choose from
    ├── ConfigError       a setting, profile file or option is wrong
    ├── DataError         a training source cannot be read, or too little of it is usable
    ├── FeedbackError     feedback is not as it should be
    │   ├── ForgedDecisionError   its decision id was not signed with this store's secret
    │   ├── ExpiredDecisionError  its decision was made too long ago
    │   ├── UnknownDecisionError  its decision is not held, or not any more
    │   ├── JudgedDecisionError   its decision has another verdict from the same API key
    │   └── ReusedKeyError        its idempotency key stands for another event
    └── StoreError        the feedback store cannot be opened, read or written
        ├── StoreLockedError      another process writes it
        ├── StoreDamagedError     it does not hold what was written to it
        ├── StoreFullError        it has reached its size cap
        ├── StoreBusyError        too many events wait to be written
        └── StoreFailedError      a write failed; nothing is taken until it is opened again

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


class FeedbackError(RouterError):
    """Feedback is not as it should be."""


class ForgedDecisionError(FeedbackError):
    """A decision id was not signed with this store's secret, or not for this API key."""


class ExpiredDecisionError(FeedbackError):
    """A decision was made too long ago to be judged."""


class UnknownDecisionError(FeedbackError):
    """A decision is not held: dropped for newer ones, deleted, or made while the store did not write."""


class JudgedDecisionError(FeedbackError):
    """A decision has another verdict from the same API key already."""


class ReusedKeyError(FeedbackError):
    """An idempotency key stands for another event of the same API key already."""


class StoreError(RouterError):
    """The feedback store cannot be opened, read or written."""


class StoreLockedError(StoreError):
    """Another process writes the feedback store."""


class StoreDamagedError(StoreError):
    """The feedback store does not hold what was written to it."""


class StoreFullError(StoreError):
    """The feedback store has reached its size cap; what it holds is safe, and nothing was added."""


class StoreBusyError(StoreError):
    """Too many events wait to be written."""


class StoreFailedError(StoreError):
    """A write failed: what was not acknowledged may be lost, and nothing is taken until the store is opened again."""
