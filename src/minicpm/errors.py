"""Every failure a user can meet, as one tree.

    MiniCPMError
    |-- ConfigError            a model description cannot be used
    |   |-- UnknownModel       no family answers to its architectures / model_type
    |   |-- UnreadConfig       it holds keys nobody reads, so part of the model would be ignored
    |   |-- BadConfig          a value is missing, of the wrong type or contradictory
    |   `-- WrongKind          the model does something else: writes text, embeds or ranks
    |-- CheckpointError        the files of a model cannot be used
    |   |-- NotACheckpoint     the folder does not hold a model
    |   |-- LfsPointer         a file is a Git-LFS pointer, the weights were never fetched
    |   |-- TruncatedFile      a file is shorter or longer than its own header says
    |   |-- MalformedFile      a weight file or its index breaks its own format
    |   |-- WeightMismatch     names or shapes of tensors differ from the model's
    |   |-- NotFinite          weights hold NaN or infinity
    |   |-- UnknownFormat      weights are quantized in a way that is not read here
    |   |-- NotTernary         weights that should be packed as {-s, 0, s} have other values
    |   |-- TokenizerMismatch  the tokenizer does not fit the config
    |   `-- UnsafeFormat       a format that can run code, refused at run time
    |-- TextError              text cannot be turned into a prompt or back
    |   |-- TokenizerError     tokenizer files are absent or broken
    |   |-- TemplateError      a chat template failed or exceeded its limits
    |   `-- MessageError       a conversation is malformed
    |-- RequestError           a request cannot be served
    |   |-- BadParameter       a sampling or length parameter is out of range
    |   |-- PromptTooLong      the prompt does not fit the context
    |   |-- QueueFull          too many requests are unfinished
    |   `-- StepFailed         computing it failed; the cause is the exception's __cause__
    |-- HubError               files cannot be had from a hub
    |   |-- Offline            the network is needed and absent or switched off
    |   |-- NotOnHub           no such repository, revision or file
    |   |-- NotAllowed         the repository is gated or private
    |   |-- DownloadFailed     a download stopped and retries did not help
    |   |-- HashMismatch       a download is not what the hub announced
    |   |-- DiskFull           the files do not fit on the disk
    |   `-- CacheNotWritable   the cache folder refuses writes
    |-- CapacityError          the work does not fit the memory
    |-- MissingExtra           an optional dependency is not installed
    `-- BadInput               input outside a model or a request: files, standard input, arguments
        `-- BadImage           an image is of an unknown kind, damaged or too large

Each message says what happened with the values, why it is refused, and what to do.
"""


class MiniCPMError(Exception):
    """Root of all errors raised on purpose; catch this to catch them all."""


class ConfigError(MiniCPMError):
    """A model description cannot be used."""


class UnknownModel(ConfigError):
    """Raised when no family answers to a config's architectures or model_type."""


class UnreadConfig(ConfigError):
    """Raised when a config holds keys that no parser reads or knows to be harmless."""


class BadConfig(ConfigError):
    """Raised when config values are missing, of the wrong type or contradict each other."""


class WrongKind(ConfigError):
    """Raised when a model is opened for what it does not do, as an embedding model for chat."""


class CheckpointError(MiniCPMError):
    """The files of a model cannot be used."""


class NotACheckpoint(CheckpointError):
    """Raised when a folder lacks what makes it a model."""


class LfsPointer(CheckpointError):
    """Raised when a weight file is a Git-LFS pointer."""


class TruncatedFile(CheckpointError):
    """Raised when a file is shorter or longer than its header says; gives both byte counts."""


class MalformedFile(CheckpointError):
    """Raised when a weight file's header or a shard index breaks its own format."""


class WeightMismatch(CheckpointError):
    """Raised when tensor names or shapes differ from what the model needs."""


class NotFinite(CheckpointError):
    """Raised when weights hold NaN or infinity."""


class UnknownFormat(CheckpointError):
    """Raised when weights are quantized in a way that is not read here; names it and what to take instead."""


class NotTernary(CheckpointError):
    """Raised when weights to be packed as {-s, 0, s} have other values; says how far they are from it."""


class TokenizerMismatch(CheckpointError):
    """Raised when a tokenizer's size or special ids contradict the config."""


class UnsafeFormat(CheckpointError):
    """Raised when only files that can run code hold the weights."""


class TextError(MiniCPMError):
    """Text cannot be turned into a prompt or back."""


class TokenizerError(TextError):
    """Raised when tokenizer files are absent or broken."""


class TemplateError(TextError):
    """Raised when a chat template fails or exceeds its limits."""


class MessageError(TextError):
    """Raised when a conversation is malformed."""


class RequestError(MiniCPMError):
    """A request cannot be served."""


class BadParameter(RequestError):
    """Raised when sampling or length parameters are out of range; names all of them."""


class PromptTooLong(RequestError):
    """Raised when a prompt does not fit the context; nothing is cut unless asked for."""


class QueueFull(RequestError):
    """Raised when an engine already holds as many unfinished requests as it accepts."""


class StepFailed(RequestError):
    """Raised to the requests of a step whose computation failed; the engine goes on."""


class HubError(MiniCPMError):
    """Files cannot be had from a hub."""


class Offline(HubError):
    """Raised when the network is needed and is absent or switched off."""


class NotOnHub(HubError):
    """Raised when a hub knows no such repository, revision or file."""


class NotAllowed(HubError):
    """Raised when a repository is gated or private and no token opens it."""


class DownloadFailed(HubError):
    """Raised when a download stopped and retries did not help; what was fetched is kept for the next try."""


class HashMismatch(HubError):
    """Raised when a download's sha256 differs from the hub's."""


class DiskFull(HubError):
    """Raised when the files do not fit on the disk; says bytes needed and free."""


class CacheNotWritable(HubError):
    """Raised when the cache folder refuses writes."""


class CapacityError(MiniCPMError):
    """Raised when weights, cache or batch do not fit the memory; says the numbers."""


class MissingExtra(MiniCPMError):
    """Raised when a feature needs an optional dependency; says which to install."""


class BadInput(MiniCPMError):
    """Raised when a file, standard input or an argument cannot be used."""


class BadImage(BadInput):
    """Raised when an image is not PNG, JPEG or WebP, is damaged, too large, or not given as its content."""
