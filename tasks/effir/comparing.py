"""Finding runs by what a person has at hand, to set them side by side."""

import json
from pathlib import Path
from typing import Any

from effir.errors import BadInput, shown
from effir.judge.comparison import Run, compare_runs, render
from effir.manifest import MANIFEST
from effir.names import check_run_id
from effir.phases.gate import read_scores
from effir.services import local, scratch
from effir.services.s3 import Absent
from effir.services.store import Store

NAMED = "name a run by its id, by the file that `effir run` wrote (last-run.json), or by its report's s3:// address"

STORES = ("EFFIR_STORE", "AWS_ENDPOINT_URL_S3")


def show(first: str, second: str, page: Path | None = None, as_json: bool = False) -> None:
    """Print what two runs have in common and what not, as a table or as JSON, and write it as a page where one is named."""
    from effir import tables

    local.connect(*STORES)
    store = Store()
    found = compare_runs(find(first, store), find(second, store))
    if page:
        try:
            page.write_text(render(found), encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{page} cannot be written: {error.strerror}") from None
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        tables.comparison(found)


def find(name: str, store: Store) -> Run:
    """The run that a person names: a DAG run id, a last-run.json, or the s3:// address of a report or of its folder.

    Raises BadInput, saying how a run is named, where there is none.
    """
    root, _, digest = _folder(name, store).rpartition("/artifacts/report/")
    try:
        told = store.manifest(f"{root}/artifacts/report/{digest}/{MANIFEST}")
        evaluate = f"{root}/artifacts/evaluate/{told.key['inputs']['evaluate']}"
        made = store.manifest(f"{evaluate}/{MANIFEST}")
    except Absent:
        raise BadInput(f"the report of {shown(name)} is no longer stored: {NAMED}") from None
    with scratch.folder("compare") as own:
        store.download(evaluate, {"scores.parquet": made.files["scores.parquet"]}, own)
        scores = read_scores(own / "scores.parquet")
    return Run(told.output["summary"], told.key["spec"], scores.get("candidate", {}), made.output.get("data", {}))


def _folder(name: str, store: Store) -> str:
    """The folder of the run's report in S3."""
    report = name if name.startswith("s3://") else _of_file(Path(name)) if Path(name).is_file() else _of_run(name, store)
    folder = report.removesuffix(f"/{MANIFEST}").removesuffix("/report.html").rstrip("/")
    if "/artifacts/report/" not in folder:
        raise BadInput(f"{shown(name)} leads to {shown(folder)}, which is no report of a run: {NAMED}")
    return folder


def _of_file(path: Path) -> str:
    try:
        found: Any = json.loads(path.read_text())["report"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, str) or not found.startswith("s3://"):
        raise BadInput(f"{path} is no summary of a run: {NAMED}")
    return found


def _of_run(name: str, store: Store) -> str:
    check_run_id(name)
    told = store.get_json_or_none(f"{store.root}/runs/{name}/results/report.json")
    if told is None:
        raise BadInput(f"no run {shown(name)} has made a report in {store.root}: {NAMED}")
    return str(told["output"]["report"])
