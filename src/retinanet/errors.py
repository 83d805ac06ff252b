"""What a user did wrong, and the remedy: one sentence on stderr and an exit code, never a traceback.

Each message says what was expected, what was found, and what to do. Broken invariants of our own are
assertions, not these.
"""


class RetinaNetError(Exception):
    """A run that failed for a reason its user can act on."""

    exit_code = 1


class UsageError(RetinaNetError):
    """An option or a combination of options that cannot work."""

    exit_code = 2


class DataError(RetinaNetError):
    """Images or annotations that cannot be used."""

    exit_code = 3


class ModelError(RetinaNetError):
    """A checkpoint or an exported artifact that cannot be used."""

    exit_code = 4


class ExportError(RetinaNetError):
    """An export that failed, or that differs from its checkpoint by more than the stated tolerance."""

    exit_code = 5


class Interrupted(RetinaNetError):
    """The run was asked to stop; its work is saved."""

    exit_code = 6
