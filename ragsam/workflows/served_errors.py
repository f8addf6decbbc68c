"""Bad input of MONAI Label's clients, told to them as the command line tells it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ragsam.errors import InputError


@contextmanager
def told_to_the_client() -> Iterator[None]:
    """Turn `InputError` into the answer 400 with its line, where the server would say 500 and nothing else.

    Raises:
        HTTPException: what was bad.
    """
    try:
        yield
    except InputError as error:
        from fastapi import HTTPException  # MONAI Label's environment has it

        raise HTTPException(status_code=400, detail=str(error)) from error
