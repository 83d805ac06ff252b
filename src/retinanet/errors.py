"""What a user did wrong, and the remedy: one sentence on stderr and an exit code, never a traceback.

Each message says what was expected, what was found, and what to do. Broken invariants of our own are
assertions, not these.
"""

from __future__ import annotations


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


class ReaderLost(RetinaNetError):
    """A process that reads images was ended from outside; the same again may well succeed."""

    @classmethod
    def because(cls, reason: str) -> ReaderLost:
        """The sentence, with `reason` in it."""
        return cls(f"A process that reads images was ended ({reason}); lower --workers or --batch, or free memory.")


def explain(error: BaseException) -> RetinaNetError | None:
    """What a user can do about an error that PyTorch raised; None where that is not known."""
    reason = str(error).partition("\n")[0]
    if isinstance(error, RetinaNetError):
        return error
    if type(error).__name__ == "OutOfMemoryError":  # PyTorch's, which is not imported here
        return RetinaNetError(f"The GPU's memory is too small ({reason}); lower --batch or --resize.")
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return RetinaNetError(f"Compiling failed ({reason}); give --no-compile.")
    if isinstance(error, RuntimeError) and reason.startswith("DataLoader worker"):
        return ReaderLost.because(reason)
    # That comes as a signal, at any moment: what it interrupts may fail once more, as a file does that is half written.
    before = explain(error.__context__) if isinstance(error.__context__, RuntimeError) else None
    return before if isinstance(before, ReaderLost) else None
