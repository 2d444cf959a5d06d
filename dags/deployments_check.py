"""Raises for every wrong entry of deployments.json, so that Airflow shows an import error on its first page.

No DAG stands in this file: the right entries run, from compress.py, whatever it raises.
"""

from deployments import deployments

if problems := deployments()[1]:
    raise ValueError("\n".join(problems))
