"""`effir …`, the only entry point. Heavy libraries are imported inside the commands, so that each starts at once."""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from effir.errors import BadInput, EffirError, NoRoom, OutOfReach, PeerLost
from effir.services import torchrun

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
PROMOTED, REJECTED = 0, 3


def main() -> None:
    """Run a command; what ends badly for a known reason says so in one sentence."""
    try:
        app()
    except OutOfReach as error:
        _end(str(error), _theirs_to_mend(error))
    except PeerLost as error:
        _end(str(error), error.exit_code, lost=True)
    except EffirError as error:
        _end(str(error), error.exit_code)
    except PermissionError as error:
        _end(f"{error.filename} may not be used by this user (id {os.getuid()}): give it the right to", BadInput.exit_code)
    except Exception as error:
        if "No space left on device" not in str(error):
            torchrun.leave(EffirError.exit_code, f"{type(error).__name__}: {error}")
            raise
        full = NoRoom("the disk is full: free some space and run again; what was finished is kept")
        _end(str(full), _theirs_to_mend(full))


def _theirs_to_mend(error: OutOfReach) -> int:
    """What a server out of reach or a full disk ends with: in a phase a retry may help, at a person's command they must."""
    return error.exit_code if sys.argv[1:2] == ["phase"] else BadInput.exit_code


# The embedded stack


@app.command()
def up() -> None:
    """Start S3, MLflow and Airflow on loopback and wait until they answer."""
    from effir.services import local

    ready = local.up(_say)
    for program, about in local.status().items():
        if about["url"]:
            _say(f"  {program:<12}{about['url']}")
    _say(f"the stack is up after {max(ready.values()):.0f} s; `effir env` says how to reach it and with which logins, `effir down` ends it")


@app.command()
def down() -> None:
    """End every process that `effir up` started."""
    from effir.services import local

    count = local.down()
    _say(f"ended {count} processes" if count else "no stack was running")


@app.command()
def status() -> None:
    """What runs, where, and how much memory it takes."""
    from effir.services import local

    found = local.status()
    if not found:
        raise BadInput(f"no stack runs in {local.folder()}: start one with `effir up`")
    for program, about in found.items():
        print(f"{program:<14}{about['state']:<10}{about['memory'] / 2**20:>7.0f} MiB  {about['url'] or ''}")
    print(f"{'together':<24}{sum(about['memory'] for about in found.values()) / 2**20:>7.0f} MiB")


@app.command()
def env() -> None:
    """Print what a client needs to reach the stack: eval "$(effir env)"."""
    from effir.services import local

    for name, value in local.client_environment().items():
        print(f"export {name}={shlex.quote(value)}")


# Runs


@app.command()
def run(
    profile: Annotated[str, typer.Option(help="The recipe; `effir profiles` lists them.")] = "demo",
    assignments: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A field of the spec to change.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and nothing else, on standard output.")] = False,
) -> None:
    """Start a run through Airflow, follow it, and say how it ended: 0 promoted, 3 rejected, 2 bad input, 1 failed."""
    sys.exit(_run(profile, overrides_of(profile, assignments or []), as_json))


@app.command()
def demo(keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running.")] = False) -> None:
    """Everything at once: start the stack where none runs, run the profile `demo`, stop the stack."""
    from effir.services import local

    started = not local.running()
    if started:
        up()
    try:
        code = _run("demo", {}, as_json=False)
    finally:
        if started and not keep:
            down()
    if keep:
        _say("the stack goes on running; `effir down` ends it")
    sys.exit(code)


@app.command()
def frontier(
    variants: Annotated[str, typer.Option(help="What is cut, with commas: [NAME=]VARIANT[:key=value…], such as 8M,16M-30%:batch=32.")],
    profile: Annotated[str, typer.Option(help="The recipe; `effir profiles` lists them.")] = "demo",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "0",
    contrasts: Annotated[str, typer.Option(help="Pairs of variants to compare, with commas: '8A vs 8M, last8B vs 8M'.")] = "",
    assignments: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A field of the spec to change.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON, and nothing else, on standard output.")] = False,
) -> None:
    """Measure many variants side by side through Airflow: quality against speed, with intervals. 0 done, 1 where an arm failed."""
    question = {"variants": variants, "seeds": seeds, "contrasts": contrasts}
    sys.exit(_frontier(profile, overrides_of(profile, assignments or []), question, as_json))


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="One of the studies; without it they are listed.")] = "",
    profile: Annotated[str, typer.Option(help="The recipe; `effir profiles` lists them.")] = "smollm2-small",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "0,1",
    assignments: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A field of the spec to change.")] = None,
    size: Annotated[
        bool, typer.Option("--size", help="Say how long it takes on two cores, on one GPU, and as large as the paper's.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON, and nothing else, on standard output.")] = False,
) -> None:
    """One of the paper's experiments, as a frontier whose variants answer its question."""
    from effir import studies
    from effir.spec import resolve

    if not name:
        for known, one in studies.STUDIES.items():
            print(f"{known:<22}{one.question}")
        return
    found, given = studies.find(name), overrides_of(profile, assignments or [])
    told = f"{found.question}\nPublished: {found.published}"
    if size:
        from effir import studying

        print(told)
        for line in studying.sizes(found, profile, given, seeds):
            print(line)
        return
    question = found.form(resolve(profile, given).base_model, seeds) | {"study": name}
    sys.exit(_frontier(profile, given, question, as_json, told))


def _frontier(profile: str, given: dict[str, Any], question: dict[str, str], as_json: bool, opening: str = "") -> int:
    from effir import arms, tables
    from effir.services import follow, local
    from effir.services.store import Store
    from effir.spec import resolve

    asked = arms.arms(resolve(profile, given), question["variants"], question["seeds"])
    arms.contrast_list(question["contrasts"], {one.name for one in asked})
    settings = local.connect()
    if opening:
        _say(opening)
    outcome = follow.frontier(settings, profile, given, question, say=_say)
    home = local.home()
    home.mkdir(parents=True, exist_ok=True)
    found = json.dumps(outcome, indent=1)
    (home / "last-frontier.json").write_text(found + "\n")
    (home / "last-frontier.html").write_bytes(Store().get_bytes(outcome["report"]))
    if as_json:
        print(found)
    else:
        tables.frontier(outcome)
    _say(f"the picture: {home / 'last-frontier.html'}; the run: {outcome['page']}")
    for one in outcome["failed"]:
        seed = "" if one["seed"] is None else f" with seed {one['seed']}"
        _say(f"{one['arm']}{seed} has no result; its task's log in Airflow says why")
    return EffirError.exit_code if outcome["failed"] else 0


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its last-run.json, or its report's s3:// address.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="The run to set beside it.")],
    page: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the comparison as a page, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, and nothing else, on standard output.")] = False,
) -> None:
    """Set two runs side by side: scores with paired tests, speed, sizes, and the settings that differ (docs/report.md)."""
    from effir import comparing

    comparing.show(first, second, page, as_json)


def _run(profile: str, overrides: dict[str, Any], as_json: bool) -> int:
    from effir import tables
    from effir.services import follow, local
    from effir.services.store import Store

    outcome = follow.run(local.connect(), profile, overrides, say=_say)
    home = local.home()
    home.mkdir(parents=True, exist_ok=True)
    (home / "last-run.json").write_text(json.dumps(outcome.summary, indent=1) + "\n")
    (home / "last-report.html").write_bytes(Store().get_bytes(outcome.summary["report"]))
    outcome.links["a copy of it"] = str(home / "last-report.html")
    if as_json:
        print(json.dumps(outcome.summary, indent=1))
    else:
        tables.show(outcome.summary, outcome.overview, outcome.links)
        _say(f"the run took {outcome.seconds:.0f} s")
    return PROMOTED if outcome.summary["verdict"] == "promoted" else REJECTED


def overrides_of(profile: str, assignments: list[str]) -> dict[str, Any]:
    """`--set key=value …` as typed fields. Raises BadInput if one does not parse or the spec would be wrong."""
    from effir.compress import grammar
    from effir.spec import resolve

    given = _assigned(assignments)
    values = resolve(profile, given).model_dump()
    return {key: values[key] for key in grammar.expand(given)}


def _assigned(assignments: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise BadInput(f"--set {assignment} does not parse: write --set key=value")
        given[key.strip()] = value
    return given


@app.command()
def plan(
    profile: Annotated[str | None, typer.Option(help="The recipe to plan (demo, where no --base is given).")] = None,
    base: Annotated[str | None, typer.Option(help="A built-in base model, or a folder with a config.json, instead of a recipe.")] = None,
    variant: Annotated[str | None, typer.Option(help="full, 8A, 16M, last4B, 16M-30%, …")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A field of the spec to change.")] = None,
    multiple: Annotated[int | None, typer.Option(min=1, help="Round widths to a multiple of this.")] = None,
    speedup: Annotated[float | None, typer.Option(help="Choose the cut for this speed-up, in matmul operations on documents.")] = None,
    parameters: Annotated[int | None, typer.Option(min=1, help="Choose the cut for at most this many parameters.")] = None,
    hardware: Annotated[
        str | None, typer.Option(help="Say what a run takes instead: h100x8, h100x1, cpu2, here (measured now), or a .toml file.")
    ] = None,
    measured: Annotated[
        Path | None, typer.Option("--against", metavar="RUN.json", help="A run's summary, to set its seconds beside the predicted ones.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON, and nothing else, on standard output.")] = False,
) -> None:
    """Say what a cut leaves of a model, before anything is trained: parameters, widths, and the most that speed can gain.

    With --hardware: what a whole run takes on it, phase by phase (docs/forecast.md).
    """
    from effir import planning
    from effir.compress.budget import Target
    from effir.spec import TARGETS, resolve

    given = _assigned(assignments or []) | ({"variant": variant} if variant else {}) | ({"width_multiple": multiple} if multiple else {})
    if base and profile:
        raise BadInput("--profile and --base exclude each other: a recipe names its own base model (--set base_model=… changes it)")
    asked = planning.spec_of(base, given) if base else resolve(profile or "demo", given)
    flags = speedup is not None or parameters is not None
    if hardware is not None or measured is not None:
        if flags:
            raise BadInput("a forecast takes its cut from the recipe: give --set target_speedup=… or --set target_parameters=… instead")
        _forecast(asked, hardware, measured, as_json)
        return
    if flags and (clash := sorted(set(given) & {"variant", "keep_ratio", "width_rule", *TARGETS})):
        raise BadInput(f"--speedup and --parameters choose the cut themselves: leave out {', '.join(clash)}")
    if flags or asked.has_target():
        rounded = multiple or (planning.MULTIPLE if base and "width_multiple" not in given else asked.width_multiple)
        target = Target(speedup, parameters) if flags else Target(asked.target_speedup, asked.target_parameters)
        found = planning.within(asked, target, rounded)
    else:
        found = planning.plan(asked)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        from rich.console import Console

        Console().print(planning.table(found))


def _forecast(asked: Any, hardware: str | None, measured: Path | None, as_json: bool) -> None:
    from rich.console import Console

    from effir.forecast import show
    from effir.forecast.estimate import against, forecast
    from effir.forecast.hardware import HERE, find
    from effir.forecast.volume import volume
    from effir.sources import local

    if hardware is None:
        raise BadInput("--against needs --hardware: the machine that the run was on, such as here")
    machine = None if hardware == HERE else find(hardware)
    run = _json_file(measured) if measured else None
    amount = volume(asked, local)
    if machine is None:
        from effir.forecast.measure import measure

        _say("measuring this machine, for about 20 s")
        machine = measure(amount)
    found = forecast(amount, machine)
    if run is not None:
        found["against"] = against(found, run)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    console = Console()
    console.print(show.comparison(found["against"]) if run is not None else show.table(found))
    for remark in () if run is not None else show.remarks(found):
        console.print(remark, highlight=False, markup=False)


def _json_file(path: Path) -> Any:
    """A run's summary. Raises BadInput if the file is none."""
    try:
        found = json.loads(path.read_text())
        found["phases"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{path} is no summary of a run: give the file that `effir run` writes, last-run.json") from None
    return found


# One phase, one model


@app.command()
def phase(
    name: Annotated[str, typer.Argument(help="prepare, importance, …")],
    spec: Annotated[str, typer.Option(help="s3:// address of the call, a JSON file.")],
    result: Annotated[str, typer.Option(help="s3:// address that the result is written to.")],
    processes: Annotated[int, typer.Option(min=1, help="Processes here that share the work, a GPU each: finetune, slim, teacher.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines that share it; the same command runs on each.")] = 1,
    rendezvous: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where they meet: a free port of one of them.")] = "",
) -> None:
    """Run one phase by hand, or find that it was done before: what a container runs."""
    from effir.services import credentials

    credentials.load()
    if processes * nodes > 1:
        from effir.phases.launcher import launch

        launch(name, spec, result, processes, nodes, rendezvous)
        return
    from effir.phases.execute import execute

    execute(name, spec, result)
    torchrun.record(0)


@app.command()
def encode(
    model: Annotated[str, typer.Argument(help="A folder, or models:/NAME@ALIAS.")],
    query: Annotated[bool, typer.Option("--query", help="The texts are queries, not documents.")] = False,
) -> None:
    """Read texts from standard input, one a line; print a vector a line, as JSON."""
    with _model_folder(model) as folder:
        from effir.export.loading import load_encoder

        texts = [line.rstrip("\n") for line in sys.stdin]
        for vector in load_encoder(folder).encode(texts, "query" if query else "document"):
            print(json.dumps([round(float(value), 6) for value in vector]))


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="A folder (of `effir export`, too), or models:/NAME@ALIAS.")],
    server: Annotated[str, typer.Option(help="Ask a running server instead, such as http://127.0.0.1:8000/v1 (OpenAI's embeddings).")] = "",
    served: Annotated[str, typer.Option(help="What the server calls the model, if it serves several.")] = "",
) -> None:
    """Recompute a model's golden embeddings with every loader there is, or have a server of another engine recompute them."""
    with _model_folder(model) as folder:
        from effir.export import verify as verifying
        from effir.services.embeddings import Server

        found = verifying.served(folder, Server(server, served).embed, server) if server else verifying.verify(folder)
        print(json.dumps(found, indent=1))


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A folder, or models:/NAME@ALIAS.")],
    to: Annotated[str, typer.Option(help="onnx; decilm: vLLM, SGLang, TensorRT-LLM and mlx-lm; llama.cpp.")],
    out: Annotated[Path | None, typer.Option(help="The new folder; without it one named after the format.")] = None,
) -> None:
    """Write an exported model in another format, and check it against the golden embeddings (docs/engines.md)."""
    with _model_folder(model) as folder:
        from effir.export import formats

        print(json.dumps(formats.export(folder, to, out or Path(to)), indent=1))
        _say(f"{out or to} holds the model for {to}; its README.md says how to use it")


@app.command()
def search(
    collection: Annotated[str, typer.Argument(help="stdlib-code, semanlink, beir:NAME, s3://…, or a folder with a corpus.jsonl.")],
    query: Annotated[str, typer.Argument(help="What is looked for.")],
    model: Annotated[str, typer.Option(help="A folder, models:/NAME@ALIAS or models:/NAME/VERSION.")] = "models:/effir-demo@champion",
    top: Annotated[int, typer.Option(min=1, help="How many documents.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON, and nothing else, on standard output.")] = False,
) -> None:
    """Look what a model finds: exact search, by the index of effir_reindex where there is one, otherwise the corpus is encoded first."""
    from rich.console import Console

    from effir import searching
    from effir.services import local

    if model.startswith("models:/") or collection.startswith("s3://"):
        local.connect("MLFLOW_TRACKING_URI")
    found = searching.search(collection, query, model, top, _say)
    print(json.dumps(found, indent=1)) if as_json else Console().print(searching.table(found))


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, which is followed, models:/NAME/VERSION, or a folder.")],
    host: Annotated[str, typer.Option(help="Where to listen; no key is asked for.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one. Printed once the server answers.")] = 8001,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds from one look at the registry to the next.")] = 30.0,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Padded tokens of one pass through the model.")] = 16_384,
    wait_ms: Annotated[float, typer.Option(min=0, max=1000, help="How long a request waits for others to go with it.")] = 3.0,
    queue: Annotated[int, typer.Option(min=1, help="Texts that may be accepted and not answered; beyond it: 503.")] = 4096,
    max_texts: Annotated[int, typer.Option(min=1, help="Texts of one request.")] = 2048,
    max_characters: Annotated[int, typer.Option(min=1, help="Characters of one text; the model cuts it at its own maximum.")] = 100_000,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Serve a retriever over HTTP, as OpenAI's embeddings API; a new champion takes over without a request lost (docs/consume.md)."""
    from effir.serve import server
    from effir.serve.limits import Limits
    from effir.services import local

    if model.startswith("models:/"):
        local.connect("MLFLOW_TRACKING_URI")
    limits = Limits(batch_tokens, wait_ms / 1000, queue, max_texts, max_characters)
    server.run(model, host, port, poll, limits, device, _say)


@app.command()
def policies(
    role: Annotated[str, typer.Argument(help="One role's; without it all of them, by role.")] = "",
    store: Annotated[str, typer.Option(help="s3:// address below which artifacts lie.")] = "s3://effir",
    reports: Annotated[str, typer.Option(help="s3:// address of MLflow's artifacts.")] = "s3://mlflow",
    identities: Annotated[bool, typer.Option("--identities", help="SeaweedFS' configuration instead, @ROLE@ for secret keys.")] = False,
) -> None:
    """Print what each role may do in S3, as policies of AWS' IAM (docs/access.md)."""
    from effir.services import local, roles

    table = roles.table(local.dags_folder())
    found = roles.template(table, store, reports) if identities else roles.policies_of(role, table, store, reports)
    print(json.dumps(found, indent=1))


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="The registered model whose champion is taken back.")],
    to: Annotated[int | None, typer.Option(min=1, help="The former champion to bring back, if not the one before.")] = None,
    why: Annotated[str, typer.Option(help="Kept in the log.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the log's record as JSON, and nothing else, on standard output.")] = False,
) -> None:
    """Bring a former champion back in one act; refused where one of its files is gone or damaged."""
    from effir.services import local, promotions
    from effir.services import rollback as going_back
    from effir.services.store import Store

    local.connect("MLFLOW_TRACKING_URI")
    record = going_back.rollback(Store(), name, str(to) if to else None, why, who=promotions.author())
    print(json.dumps(record, indent=1) if as_json else promotions.sentence(record))


@app.command()
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this it is only listed.")] = False,
    older_than: Annotated[str, typer.Option(help="Leave alone what was written to since, such as 24h.")] = "24h",
    runs_older_than: Annotated[str, typer.Option(help="The same for what is left of runs that are over.")] = "30d",
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, and nothing else, on standard output.")] = False,
) -> None:
    """List what no model, no promotion and no run needs any more. Refuses where Airflow or MLflow cannot be asked."""
    from effir.services import garbage, local

    limits = garbage.Limits(garbage.seconds_of(older_than), garbage.seconds_of(runs_older_than))
    told = garbage.collect(local.connect(), limits, delete, _say)
    print(json.dumps(told, indent=1) if as_json else "\n".join(garbage.table(told)))


@app.command("simulate-gate")
def simulate_gate(
    collections: Annotated[str, typer.Option(help="Whose queries are drawn, with commas (EFFIR_DATA).")] = "beir:scifact,beir:nfcorpus",
    queries: Annotated[str, typer.Option(help="Queries of a simulated test collection, with commas.")] = "25,50,100,150,300",
    pairs: Annotated[str, typer.Option(help="Pairs of systems, with commas; those with MiniLM take minutes to score.")] = "",
    margins: Annotated[str, typer.Option(help="Tolerated losses of nDCG@10, with commas.")] = "0.02,0.05",
    draws: Annotated[int, typer.Option(min=10, help="Simulated collections a figure.")] = 2000,
    resamples: Annotated[int, typer.Option(min=200, help="Resamples of each bound.")] = 1000,
    documents: Annotated[int | None, typer.Option(min=10, help="Shrink the corpora to so many documents.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rates as JSON, and nothing else, on standard output.")] = False,
) -> None:
    """How often the gate passes what it must not, and what it should: the tables of docs/gate.md."""
    from effir import rates
    from effir.services import local

    chosen = tuple(one.strip() for one in collections.split(",") if one.strip())
    sizes, tolerated = rates.numbers(queries, int), rates.numbers(margins, float)
    systems = tuple(one.strip() for one in pairs.split(",") if one.strip()) or rates.Asked.pairs
    asked = rates.Asked(chosen, systems, sizes, tolerated, draws=draws, resamples=resamples, documents=documents)
    found = rates.measure(asked, local.home() / "gate", _say)
    print(json.dumps(found, indent=1) if as_json else rates.markdown(found))


# What there is to choose from


@app.command()
def profiles() -> None:
    """The recipes that ship with effir."""
    from effir.spec import profile_names

    print("\n".join(profile_names()))


@app.command()
def spec(
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema that the trigger form is made from.")] = False,
) -> None:
    """The fields of a run's spec and their defaults."""
    from effir.spec import RunSpec

    print(json.dumps(spec_schema(), indent=1) if schema else RunSpec().model_dump_json(indent=1))


def spec_schema() -> dict[str, Any]:
    """The spec's JSON schema, with the names of the profiles beside it."""
    from effir.spec import RunSpec, profile_names

    return RunSpec.model_json_schema() | {"profiles": profile_names()}


@contextmanager
def _model_folder(model: str) -> Iterator[Path]:
    """A model as a local folder: one that is registered is downloaded for the context's length."""
    from effir.services import local, registry, scratch

    if model.startswith("models:/"):
        local.connect("MLFLOW_TRACKING_URI")
    with scratch.folder("model") as own:
        yield registry.local_folder(model, own)


def _end(sentence: str, code: int, lost: bool = False) -> NoReturn:
    """One of several processes leaves its sentence with the one that started them, which says it if it is the one that matters."""
    torchrun.leave(code, sentence, lost)
    print(f"effir: {sentence}", file=sys.stderr, flush=True)
    sys.exit(code)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
