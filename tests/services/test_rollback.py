import pytest

from effir.errors import BadInput
from effir.manifest import MANIFEST, Manifest, code_version, content_of
from effir.services import promotions, registry
from effir.services.rollback import rollback
from effir.services.store import split


class Model:
    """A registered model whose versions 1, 2, … are stored and were champions one after another."""

    def __init__(self, name, store, folder, count) -> None:
        self.name, self.store = name, store
        before = None
        for number in range(1, count + 1):
            here = folder / str(number)
            (here / "model").mkdir(parents=True)
            (here / "model" / "weights").write_text(f"weights {number}")
            (here / "MLmodel").write_text("flavors: {}\n")
            digest = f"{number:064d}"
            manifest = Manifest(phase="finetune", digest=digest, key={}, files={}, numbers={}, seconds=1, forward_passes=0, created="now")
            files = content_of(store.publish(manifest, here).files)
            source = store.artifact("finetune", digest)
            uri = f"{source}/{MANIFEST}"
            tags = {"effir.files": files}
            version = registry.register(name, source, run_id=None, digest=digest, manifest=uri, description="", tags=tags)
            to = {"version": version, "digest": digest, "manifest": uri, "source": source, "files": files}
            before = promotions.record(store, name, "promote", before, to, why=[], who="x", code="c")["to"]
        promotions.settle(store, name)

    def back(self, to=None, why=""):
        return rollback(self.store, self.name, to, why, who="ada")

    def aliases(self):
        return registry.aliases(self.name)


@pytest.fixture
def model(mlflow, store, tmp_path, request):
    """Makes a model with so many former champions."""
    return lambda count: Model(f"model-{abs(hash(request.node.nodeid)):x}", store, tmp_path, count)


def test_the_champion_before_comes_back_in_one_act(model):
    found = model(2)
    record = found.back(why="users complain")
    assert found.aliases() == {"champion": "1"}
    assert promotions.latest(found.store, found.name) == record
    assert (record["n"], record["action"], record["from"]["version"], record["to"]["version"]) == (3, "rollback", "2", "1")
    assert (record["why"], record["who"], record["run"], record["verdict"]) == (["users complain"], "ada", None, None)
    assert record["code"] == code_version("effir.services.rollback")
    assert record["to"]["manifest"] == f"{record['to']['source']}/{MANIFEST}"


def test_twice_goes_back_twice_and_no_further(model):
    found = model(3)
    found.back()
    assert found.aliases() == {"champion": "2", "previous": "1"}
    found.back()
    assert found.aliases() == {"champion": "1"}
    with pytest.raises(BadInput, match=r"no champion of .* before version 1 is known"):
        found.back()


def test_a_version_can_be_named(model):
    found = model(3)
    found.back("1")
    assert found.aliases()["champion"] == "1"
    found.back("3")
    assert found.aliases() == {"champion": "3", "previous": "2"}


def test_what_cannot_be_brought_back_is_refused(model):
    found = model(2)
    source = found.store.artifact("finetune", f"{2:064d}")
    registry.register(found.name, source, run_id=None, digest="d", manifest="", description="", tags={})
    for version, problem in {"2": "is the champion already", "3": "never was its champion", "9": "never was its champion"}.items():
        with pytest.raises(BadInput, match=f"version {version} of .* {problem}"):
            found.back(version)
    with pytest.raises(BadInput, match="absent has no champion"):
        rollback(found.store, "absent", None, "", who="ada")
    assert promotions.latest(found.store, found.name)["n"] == 2


def damage_weights(found, prefix):
    bucket, key = split(f"{prefix}/model/weights")
    found.store.client.put_object(Bucket=bucket, Key=key, Body=b"weights 7")


def damage_manifest(found, prefix):
    bucket, key = split(f"{prefix}/{MANIFEST}")
    found.store.client.put_object(Bucket=bucket, Key=key, Body=b'{"phase": 3}')


def exchange_manifest(found, prefix):
    manifest = found.store.get_json(f"{prefix}/{MANIFEST}")
    del manifest["files"]["model/weights"]
    found.store.put_json(f"{prefix}/{MANIFEST}", manifest)
    registry.tag(found.name, "1", "effir.files", content_of(Manifest.model_validate(manifest).files))


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda found, prefix: found.store.delete([f"{prefix}/model/weights"]), "is damaged: model/weights in .* is not as registered"),
        (damage_weights, "is damaged: model/weights in .* is not as registered"),
        (lambda found, prefix: found.store.delete([f"{prefix}/{MANIFEST}"]), "is gone: .*manifest.json does not exist"),
        (damage_manifest, "is damaged: .* is no manifest"),
        (exchange_manifest, "is not what was registered"),
    ],
)
def test_a_former_champion_that_is_gone_or_damaged_is_refused(model, harm, problem):
    found = model(2)
    harm(found, found.store.artifact("finetune", f"{1:064d}"))
    with pytest.raises(BadInput, match=f"version 1 of .* {problem}"):
        found.back()
    assert found.aliases() == {"champion": "2", "previous": "1"}
    assert promotions.latest(found.store, found.name)["n"] == 2


def test_a_version_that_mlflow_lost_is_refused(model):
    from mlflow.tracking import MlflowClient

    found = model(2)
    MlflowClient().delete_model_version(found.name, "1")
    with pytest.raises(BadInput, match=r"MLflow has no model models:/.*/1"):
        found.back("1")
    promotions.settle(found.store, found.name)
    assert found.aliases() == {"champion": "2"}, "an alias names no version that is gone"
