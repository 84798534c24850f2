# SPDX-License-Identifier: Apache-2.0
"""The one exception that is meant for the user's eyes, others in words, and how commands end with them."""

BAD_INPUT = 2
# What shells report of a program ended by SIGINT, and by SIGPIPE.
INTERRUPTED, UNREAD = 130, 141


class LedposeError(ValueError):
    """Input or configuration that cannot be used.

    The message is one sentence that says what is wrong and how to mend it. Commands print it and exit with
    code 2; nodes log it and count it.
    """


def one_line(error: object) -> str:
    """What an exception says, without its line breaks."""
    return " ".join(str(error).split())


def system_error(error: OSError, what: str) -> str:
    """What the system refused, in a sentence's end: the file, or else `what`, and why."""
    return f"{error.filename or what}: {error.strerror or error}"
