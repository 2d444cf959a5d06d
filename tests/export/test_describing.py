from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from effir.compress.cut import Cut
from effir.errors import BadInput
from effir.export.describing import kept_layers, layer_table, prefix_of, sentence_files
from effir.retrieve.settings import Settings


def test_kept_layers() -> None:
    cut = Cut(5, drop_attention=[0, 1, 4], drop_mlp=[1, 2], neurons={3: np.arange(4), 4: np.arange(0)})
    assert kept_layers(3, cut) == [0, 2, 3]
    assert kept_layers(3, None) == [0, 1, 2]
    with pytest.raises(BadInput, match="apply the cut before exporting"):
        kept_layers(5, cut)


def test_layer_table(export: Callable[..., Any]) -> None:
    assert layer_table(export().model) == {
        "0": {"skip": ["attention"], "intermediate_size": 16},
        "1": {"intermediate_size": 32},
        "2": {"skip": ["mlp"]},
    }


def test_prefix_of() -> None:
    assert prefix_of("<q>\n{text}") == "<q>\n"
    assert prefix_of("{text}") == ""
    with pytest.raises(BadInput, match="prefixes only"):
        prefix_of("{text}\n")


def test_lengths_of_queries_and_documents_are_told_apart_only_where_they_differ() -> None:
    same = sentence_files(Settings(max_query_tokens=9, max_document_tokens=9), 4, {})["sentence_bert_config.json"]
    other = sentence_files(Settings(max_query_tokens=9, max_document_tokens=7), 4, {})["sentence_bert_config.json"]
    assert same == {"max_seq_length": 9, "do_lower_case": False}
    assert other == same | {"query_length": 9, "document_length": 7}
