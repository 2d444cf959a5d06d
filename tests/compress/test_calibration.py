import pytest

from effir.compress.calibration import pack
from effir.errors import BadInput


class Letters:
    """One token a letter; enough of a tokenizer for packing."""

    eos_token_id = 0

    def __call__(self, text, add_special_tokens):
        assert add_special_tokens is False
        return {"input_ids": [ord(letter) for letter in text]}


def test_sequences_are_full_and_seeded():
    texts = ["abc", "defgh", "ij", "k" * 20]
    packed = pack(Letters(), texts, 5, 4, seed=3)
    assert [len(one) for one in packed] == [4] * 5
    assert packed == pack(Letters(), texts, 5, 4, seed=3)
    assert packed != pack(Letters(), texts, 5, 4, seed=4)
    assert len(pack(Letters(), texts, 1000, 4, seed=3)) == (3 + 5 + 2 + 20 + 4) // 4


def test_texts_end_in_sep_where_there_is_no_eos():
    tokenizer = Letters()
    tokenizer.eos_token_id, tokenizer.sep_token_id = None, 7
    assert pack(tokenizer, ["ab", "ab"], 1, 6, seed=0) == [[97, 98, 7] * 2]
    tokenizer.eos_token_id = 3
    assert pack(tokenizer, ["ab", "ab"], 1, 6, seed=0) == [[97, 98, 3] * 2]


def test_too_little_text():
    with pytest.raises(BadInput, match="3 tokens, too few for one sequence of 8"):
        pack(Letters(), ["ab"], 4, 8, seed=0)
