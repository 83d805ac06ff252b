"""What is wrong with a command's words, in a sentence."""

from __future__ import annotations

import shlex

from cyclopts import CycloptsError, MissingArgumentError, UnusedCliTokensError


def describe(error: CycloptsError) -> str:
    """What was expected, and what was found; cyclopts has a sentence for most of it."""
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        values, _ = error.argument.token_count()
        if values > 1:
            found = f"got only {shlex.join(error.tokens_so_far)}" if error.tokens_so_far else "got none"
            return f"{error.argument.name} takes {values} values, but {found}."
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return (
            f"No option takes {shlex.join(error.unused_tokens)} as well; leave it out, or put a value with spaces in "
            "quotes."
        )
    return str(error)
