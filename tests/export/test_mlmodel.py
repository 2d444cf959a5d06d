import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
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


def test_the_sentence_transformer_is_inside_and_the_other_flavour_refuses(export: Callable[..., Any]) -> None:
    """MLflow's own flavour demands another folder name; it says that the flavour is not there."""
    import mlflow
    from sentence_transformers import SentenceTransformer

    one = export()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inside = mlflow.pyfunc.load_model(str(one.folder)).get_raw_model()
        assert isinstance(inside, SentenceTransformer)
        golden = load_file(one.inner / "golden.safetensors")
        np.testing.assert_allclose(inside.encode_query(list(GOLDEN_TEXTS), show_progress_bar=False), golden["query"], atol=1e-6)
        with pytest.raises(mlflow.exceptions.MlflowException, match="sentence_transformers"):
            mlflow.sentence_transformers.load_model(str(one.folder))
