"""`python end_container.py ENGINE CONTAINER SECONDS`: stop a container, with that much time for its checkpoint, and remove it.

A process of its own, because Airflow kills a task's process five seconds after it asked it to stop.
"""

import sys
import time
from contextlib import suppress

import docker
from docker.errors import NotFound

REPLY_SECONDS = 60
READING_SECONDS = 10


def end(engine: str, container: str, grace: int) -> None:
    """Where the task's process still lives, it reads how the container ended, and removes it itself."""
    client = docker.APIClient(base_url=engine, timeout=REPLY_SECONDS)
    with suppress(NotFound):
        client.stop(container, timeout=grace)
        time.sleep(READING_SECONDS)
        client.remove_container(container, v=True, force=True)


if __name__ == "__main__":
    end(sys.argv[1], sys.argv[2], int(sys.argv[3]))
