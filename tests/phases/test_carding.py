import json
import shlex

from mlflow.tracking import MlflowClient

from effir.cli import overrides_of
from effir.phases.carding import command, named
from effir.spec import profile_names, resolve


def test_the_command_makes_the_same_spec():
    changes = {"steps": 7, "query_template": "q's {text}", "margins": "", "kl_weight": 0.25, "trust_remote_code": True}
    for profile in profile_names():
        asked = resolve(profile, changes)
        words = shlex.split(command(asked))
        assert words[:3] == ["effir", "run", "--profile"]
        assert set(words[4::2]) <= {"--set"}
        assert resolve(words[3], overrides_of(words[3], words[5::2])) == asked
        assert len(words) <= 4 + 2 * len(changes)
    assert command(resolve("demo")) == "effir run --profile demo"


def test_a_source_goes_by_its_last_part_where_it_is_a_path():
    assert [named(one) for one in ("/home/ada/data/mine/", "s3://b/x/rows.jsonl", "beir:scifact", "org/model")] == [
        "mine", "rows.jsonl", "beir:scifact", "org/model",
    ]  # fmt: skip


def test_promote_writes_the_card_that_says_how_good_and_how_fast(judged):
    judged.prepare().execute("gate")
    judged.execute("promote")
    told, metrics = judged.read("promote", "README.md"), json.loads(judged.read("evaluate", "metrics.json"))
    (row,) = [line for line in told.splitlines() if line.startswith("| papers |")]
    means = [f"{100 * metrics[model]['papers']['ndcg_at_10']:.1f}" for model in ("reference", "candidate")]
    assert [cell.strip() for cell in row.split("|")[3:5]] == means
    assert "trained the same way: promoted" in told
    assert "- queries: 1.30 (1.28 to 1.32)" in told
    assert f"--set name={judged.name}" in told
    assert f"Run manual__{judged.name}." in told
    tag = MlflowClient().get_model_version(judged.name, "1").tags["effir.card"]
    assert judged.store.get_bytes(tag).decode() == told
