"""Imports once, in the scheduler, what every task of ours imports: its workers are forked from it, and so is every task.

Airflow finds it in its plugins folder, which other programs of Airflow read as well; they have no use for this.
"""

import sys

if "scheduler" in sys.argv:
    import airflow.providers.amazon.aws.hooks.s3
    import airflow.sdk.execution_time.task_runner  # noqa: F401
