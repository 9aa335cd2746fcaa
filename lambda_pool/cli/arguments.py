"""Kinds of arguments that more than one subcommand takes; each says in a sentence what is wrong with a value."""

from __future__ import annotations

import argparse
import re
from pathlib import Path


def seconds(text: str) -> float:
    """A time above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return number


def integer(text: str) -> int:
    """A whole number of any size; the command says which it can work with."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """A number of any size; the command says which it can work with."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def count(text: str) -> int:
    """A whole number, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def name(text: str) -> str:
    """A text; an empty one is refused, because it may come from a variable that is not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


def function_name(text: str) -> str:
    """A Lambda function's plain name, as in the dimension of its metrics: an ARN or an alias would find no metrics."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name(text)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a function's name: at most 64 letters, digits, - and _, no ARN, no alias"
        )
    return text


def file(text: str) -> Path:
    """A file's path; a URL is refused, before an error of the system shows it."""
    if "://" in name(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a file's path")
    return Path(text)


def arn(text: str) -> str:
    """An ARN, as far as its first word tells."""
    if not text.startswith("arn:"):
        raise argparse.ArgumentTypeError(f"{text!r} is not an ARN, which begins with arn:")
    return text
