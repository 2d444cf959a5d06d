import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from effir.export.writer import GOLDEN_TEXTS


def test_mlflow_reads_what_was_written(export: Callable[..., Any]) -> None:
    from mlflow.models import Model

    one = export()
    model = Model.load(str(one.folder))
    assert model.flavors["python_function"]["loader_module"] == "mlflow.sentence_transformers"
    assert model.signature.inputs.input_types()[0].name == "string"
    assert [parameter.name for parameter in model.signature.params.params] == ["prompt_name", "task"]
    pins = (one.folder / "requirements.txt").read_text().split()
    assert {pin.split("==")[0] for pin in pins} == {"mlflow", "sentence-transformers", "transformers", "torch"}
    assert not [pin for pin in pins if "+" in pin]
    assert not [path for path in one.folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".bin", ".pt")]


def test_predict_embeds_documents_unless_told_otherwise(export: Callable[..., Any], mean: Any) -> None:
    import mlflow

    one = export(settings=mean)
    golden = load_file(one.inner / "golden.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = mlflow.pyfunc.load_model(str(one.folder))
        np.testing.assert_allclose(model.predict(list(GOLDEN_TEXTS)), golden["document"], atol=1e-6)
        np.testing.assert_allclose(
            model.predict(list(GOLDEN_TEXTS), params={"prompt_name": "query", "task": "query"}), golden["query"], atol=1e-6
        )
        assert model.predict(["one text"]).shape == (1, 32)
