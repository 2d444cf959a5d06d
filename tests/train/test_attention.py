import pytest
import torch

from effir.train.attention import SHORT, attention_for, written_out


def implementations(model):
    return {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")}


def test_attention_is_written_out_within_the_context_and_no_longer(backbone):
    model, ids = backbone(), torch.arange(14).view(2, 7)
    with torch.no_grad():
        fused = model(ids, use_cache=False).last_hidden_state
        with written_out(model):
            assert implementations(model) == {"eager"}
            assert (model(ids, use_cache=False).last_hidden_state - fused).abs().max() < 1e-6
    assert implementations(model) == {"sdpa"}


@pytest.mark.parametrize(
    ("dtype", "longest", "wanted"),
    [(torch.float32, SHORT, "eager"), (torch.float32, SHORT + 1, "sdpa"), (torch.float64, SHORT, "sdpa")],
)
def test_short_texts_go_through_attention_that_is_written_out(backbone, dtype, longest, wanted):
    model = backbone(dtype)
    with attention_for(model, longest):
        assert implementations(model) == {wanted}
    assert implementations(model) == {"sdpa"}
