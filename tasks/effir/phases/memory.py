"""Memory that ran out: how it shows, what to say, and how many queries a retry holds at once."""

from effir.errors import BadInput, EffirError, OutOfMemory
from effir.phases.job import Job

SIGNS = ("out of memory", "allocate memory", "ALLOC_FAILED")


def ran_out(error: Exception) -> bool:
    """Whether an exception says that memory ran out: Python's, torch's on any device, cuBLAS's, the kernel's (ENOMEM).

    torch raises an OutOfMemoryError for its own pool of CUDA memory only, elsewhere a RuntimeError whose text tells.
    """
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)


def sentence(job: Job) -> EffirError:
    """What happens now: a retry with fewer queries in memory at once, or nothing where one query is too much already."""
    if job.held is None:
        return OutOfMemory(f"{job.phase} ran out of memory; if a retry does too, lower batch_tokens or give the phase more memory")
    if job.held > 1:
        return OutOfMemory(
            f"{job.phase} ran out of memory with {job.held} queries in it at once; a retry holds {job.held // 2} and goes on "
            "from the last checkpoint, if there is one; the batch stays as it is"
        )
    return BadInput(
        f"{job.phase} ran out of memory with a single query in it: lower hard_negatives or max_training_tokens, or give it more memory"
    )


def hold(job: Job, batch: int) -> int:
    """Queries of a step that this process holds in memory at once, at least 1: micro_batch, halved job.halvings times.

    micro_batch 0, or one that is larger, stands for a rank's whole share of the batch. Raises BadInput if there are more ranks than
    queries in a batch.
    """
    share = -(-batch // job.ranks.count)
    if batch < job.ranks.count:
        raise BadInput(f"{job.phase} has {batch} queries a step, too few for {job.ranks.count} processes: use fewer or a larger batch")
    job.held = max(1, min(job.spec.micro_batch or share, share) >> job.halvings)
    return job.held
