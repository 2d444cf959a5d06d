import numpy as np
import pytest
import torch
from transformers import Gemma3TextConfig, Gemma3TextModel, LlamaConfig, LlamaModel, ModernBertConfig, ModernBertModel

from effir.errors import BadInput
from effir.retrieve.encode import Encoder, batches, pass_tokens, pool
from effir.retrieve.settings import Settings


class Letters:
    """One token a letter."""

    eos_token_id = 1

    def __call__(self, texts, truncation, max_length, add_special_tokens):
        return {"input_ids": [[ord(letter) % 64 + 2 for letter in text][:max_length] for text in texts]}


TINY = {"vocab_size": 80, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def llama():
    return LlamaModel(LlamaConfig(**TINY, num_key_value_heads=1))


def modernbert():
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    return ModernBertModel(ModernBertConfig(**TINY, **special, local_attention=8))


def both_ways():
    """A decoder that attends as an encoder does, as EmbeddingGemma."""
    return Gemma3TextModel(Gemma3TextConfig(**TINY, num_key_value_heads=1, head_dim=8, use_bidirectional_attention=True, sliding_window=8))


@pytest.fixture(params=[llama])
def model(request):
    torch.manual_seed(0)
    return request.param().eval()


@pytest.mark.parametrize("model", [llama, modernbert, both_ways], indirect=True)
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_batching_and_padding_change_nothing(model, pooling):
    one = Encoder(model, Letters(), Settings(pooling=pooling, append_eos=pooling == "last"))
    texts = ["a", "some words", "", "a much longer text than the others", "b" * 25]
    alone = np.concatenate([one.encode([text], "document") for text in texts])
    together = one.encode(texts, "document", batch_tokens=10_000)
    split = one.encode(texts, "document", batch_tokens=40)
    assert np.abs(alone - together).max() < 1e-6
    assert np.abs(alone - split).max() < 1e-6
    assert np.allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-6)
    assert one.forward_passes > 6


def test_a_pass_is_as_large_as_suits_the_device_or_smaller_where_told(model):
    one, texts = Encoder(model, Letters(), Settings(append_eos=False)), ["x" * 64] * 40
    one.encode(texts)
    assert one.forward_passes == 5, "512 tokens a pass on a processor"
    one.encode(texts, batch_tokens=64)
    assert one.forward_passes == 5 + 40
    one.encode(texts, batch_tokens=16_384)
    assert one.forward_passes == 5 + 40 + 5, "more is slower there"
    assert pass_tokens("cuda:1") == 16_384
    assert pass_tokens("cuda:1", 65_536) == 65_536, "a GPU takes what it is told to"


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_vector_is_what_the_states_say(model, pooling):
    one = Encoder(model, Letters(), Settings(pooling=pooling, append_eos=False))
    tokens = one.tokenize(["hello there"], "document")
    with torch.no_grad():
        states = model(input_ids=torch.tensor(tokens)).last_hidden_state[0].numpy()
    expected = states[-1] if pooling == "last" else states.mean(0)
    assert np.abs(one.encode(["hello there"], "document")[0] - expected / np.linalg.norm(expected)).max() < 1e-6


def test_eos_cannot_be_put_where_there_is_none(model):
    letters = Letters()
    letters.eos_token_id = None
    with pytest.raises(BadInput, match="no eos token, whose state pooling = last takes: use pooling = mean"):
        Encoder(model, letters, Settings("last", append_eos=True)).tokenize(["a"], "query")
    assert Encoder(model, letters, Settings("mean", append_eos=False)).tokenize(["a"], "query")


def test_templates_lengths_and_eos(model):
    settings = Settings("last", "q: {text}", "{text}", max_query_tokens=6, max_document_tokens=4, append_eos=True)
    one = Encoder(model, Letters(), settings)
    assert [len(ids) for ids in one.tokenize(["a", "abcdefgh"], "query")] == [5, 6]
    documents = one.tokenize(["ab", "abcdefgh", ""], "document")
    assert [len(ids) for ids in documents] == [3, 4, 1]
    assert all(ids[-1] == 1 for ids in documents)
    assert one.tokenize([], "query") == []


def test_gradients_reach_the_model_in_parts(model):
    one = Encoder(model, Letters(), Settings("mean", append_eos=False))
    tokens = one.tokenize(["abc", "a longer one", "b"], "document")
    vectors = one.embed_in_parts(tokens, 12)
    assert torch.allclose(vectors.detach(), torch.from_numpy(one.encode_tokens(tokens, 999)), atol=1e-6)
    vectors.sum().backward()
    assert model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_pool_ignores_padding():
    states = torch.arange(12.0).view(2, 3, 2)
    assert pool(states, torch.tensor([1, 3]), "mean").tolist() == [[0, 1], [8, 9]]
    assert pool(states, torch.tensor([2, 3]), "last").tolist() == [[2, 3], [10, 11]]


def test_batches_hold_every_row_once_within_the_budget():
    tokens = [[0] * length for length in (5, 1, 9, 3, 3, 12, 2)]
    found = list(batches(tokens, 12))
    assert sorted(row for rows in found for row in rows) == list(range(7))
    assert all(max(len(tokens[row]) for row in rows) * len(rows) <= 12 for rows in found)
