"""The one error tree. Each leaf knows the exit code that the command line ends with.

    CohortiumError                1  failed
    ├── DocumentError             2  a file that people write is wrong: names file, key, rule
    ├── UsageError                2  the command was called wrongly
    ├── DataError                 2  a site's table does not fit its schema or the study
    ├── IdentityError             3  a key, certificate, token or signature is not what it should be
    │   └── SignatureError        3  a message was not signed by whom it says
    ├── RefusedError              4  a site's policy or privacy budget says no
    ├── StorageError              1  a database cannot be read or written now
    ├── ProtocolError             1  a peer sent what the protocol does not allow
    └── UnreachableError          5  nobody answered, or not in time

A message is one line: what is wrong (file, key, rule), who can change it, what to do next.
It never holds a patient's value.
"""

from collections.abc import Mapping


class CohortiumError(Exception):
    """Anything that Cohortium itself raises."""

    exit_code = 1


class DocumentError(CohortiumError):
    """A TOML document does not say what it must."""

    exit_code = 2


class UsageError(CohortiumError):
    """A command was called with arguments that make no sense together."""

    exit_code = 2


class DataError(CohortiumError):
    """A table does not fit its schema, or has too little in it for the study."""

    exit_code = 2


class IdentityError(CohortiumError):
    """A key, certificate, fingerprint or token is not what it should be."""

    exit_code = 3


class SignatureError(IdentityError):
    """A message is not signed by whom it claims to come from."""


class RefusedError(CohortiumError):
    """A site's policy, approvals or privacy budget forbid it.

    Args:
        rule: machine-readable name of the rule, such as `policy.minimum_patients`.
        explanation: one line for people.
        detail: what the event of the refusal says besides.
    """

    exit_code = 4

    def __init__(
        self, rule: str, explanation: str, detail: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{rule}: {explanation}")
        self.rule = rule
        self.explanation = explanation
        self.detail = detail or {}


class StorageError(CohortiumError):
    """The disk is full, read-only or broken, or somebody holds the file: it may pass."""


class ProtocolError(CohortiumError):
    """A peer sent bytes, a field or an order of messages that the protocol does not allow."""


class UnreachableError(CohortiumError):
    """Nobody answered, or not in time."""

    exit_code = 5
