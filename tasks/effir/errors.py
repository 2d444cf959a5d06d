"""The ways a command ends badly; the exit code is part of the contract with the orchestrator (docs/architecture.md, Exit codes)."""


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


class PeerLost(Stopped):
    """One of the processes that share a phase is gone, and the others cannot go on; why it went, it says itself. Exit code 75."""


class OutOfMemory(EffirError):
    """Memory ran out, of the device or of the machine. Exit code 76: retried with fewer queries in memory at once."""

    exit_code = 76
