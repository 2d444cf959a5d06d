"""The ways a command ends badly; the exit code is part of the contract with the orchestrator (docs/architecture.md, Exit codes)."""

from typing import Any

LONGEST, LONGEST_SENTENCE = 80, 1000


class EffirError(Exception):
    """Something failed; the message is one sentence for a person, on one line. Exit code 1: may be retried."""

    exit_code = 1

    def __init__(self, sentence: str = "") -> None:
        line = " ".join(sentence.splitlines()).encode(errors="backslashreplace").decode()
        super().__init__(line if len(line) <= LONGEST_SENTENCE else f"{line[:LONGEST_SENTENCE]}…")


class BadInput(EffirError, ValueError):
    """What was asked for or handed in is wrong: what, where, what to do. Exit code 2: never retried."""

    exit_code = 2


class OutOfReach(EffirError):
    """A server cannot be reached: nothing is wrong with what was asked. Exit code 75: the same try of a phase goes on later.

    At a person's command line it ends with 2, like bad input: it is theirs to set right before they ask again.
    """

    exit_code = 75


class NoRoom(OutOfReach):
    """A disk or a quota is full. Exit code 1 of a phase: may be retried, but waiting alone seldom makes room."""

    exit_code = 1


class Stopped(EffirError):
    """Work stopped at a checkpoint on request (SIGTERM). Exit code 75: retried, and resumes."""

    exit_code = 75


class PeerLost(Stopped):
    """One of the processes that share a phase is gone, and the others cannot go on; why it went, it says itself. Exit code 75."""


class OutOfMemory(EffirError):
    """Memory ran out, of the device or of the machine. Exit code 76: retried with fewer queries in memory at once."""

    exit_code = 76


def shown(value: Any) -> str:
    """A value as an error shows it: its repr, cut where it is long.

    >>> shown("a"), len(shown("a" * 10**6))
    ("'a'", 81)
    """
    text = repr(value[:LONGEST] if isinstance(value, str) else value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
