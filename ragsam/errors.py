"""The one exception that stands for bad input."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, reported in one line: the case, the cause and the way out.

    The command line prints it to stderr without a traceback and exits with code 2.

    Examples:
        >>> try:
        ...     raise InputError("img0007: no such file; check the path")
        ... except InputError as error:
        ...     str(error)
        'img0007: no such file; check the path'
    """
