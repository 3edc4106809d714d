"""What a library raises over a file of somebody else's becomes one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from tokenization.errors import InputError
from tokenization.files.content import one_line

MOST_LETTERS = 300
"""Of a library's own message, or of a value that is shown."""


@contextmanager
def library_errors_explained(problem: str, remedy: str) -> Iterator[None]:
    """Puts the library's error between what is wrong with which file, and what to do.

    Raises:
        InputError: a library raises anything in the block.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # transformers checks with errors of its own; diffusers and torch raise any
        line = one_line(error)[:MOST_LETTERS]
        raise InputError(f"{problem}: {type(error).__name__}: {line}; {remedy}") from error
