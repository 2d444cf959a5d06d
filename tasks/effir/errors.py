"""The three ways a command ends badly; the exit code is part of the contract with the orchestrator."""


class EffirError(Exception):
    """Something failed; the message is one sentence for a person. Exit code 1: may be retried."""

    exit_code = 1


class BadInput(EffirError, ValueError):
    """What was asked for or handed in is wrong: what, where, what to do. Exit code 2: never retried."""

    exit_code = 2


class OutOfReach(EffirError):
    """A server cannot be reached or the disk is full: nothing is wrong with what was asked, and a phase is retried.

    At a person's command line it ends with 2, like bad input: it is theirs to set right before they ask again.
    """


class Stopped(EffirError):
    """Work stopped at a checkpoint on request (SIGTERM). Exit code 75: retried, and resumes."""

    exit_code = 75
