"""Matmul operations of encoding, training and re-ranking: 2 a multiply-add, attention scores included, no LM head."""

from collections.abc import Sequence

from effir.compress.shapes import Backbone, Layer, Shape, attention_flops, flops, mlp_flops

MINILM = Shape(384, (Layer(384, 384, 1536),) * 6, causal=False)
"""all-MiniLM-L6-v2. Its MLPs, and those of the rerankers, have two matrices and no gate: count them with `plain`."""
RERANKER = Shape(1024, (Layer(1024, 1024, 4096),) * 24, causal=False)
"""bge-reranker-v2-m3, which is XLM-RoBERTa large; another cross-encoder is counted as if it were this one."""
RERANKER_WEIGHTS = 568_000_000
MINILM_WEIGHTS = 22_700_000


def encoding(shape: Shape, lengths: Sequence[int], count: float) -> float:
    """To encode `count` texts whose lengths are distributed like these."""
    return flops(shape, lengths) * count / len(lengths)


def plain(shape: Shape, lengths: Sequence[int], count: float) -> float:
    """The same for a shape whose MLPs have two matrices instead of three."""
    each = sum(attention_flops(shape, one, lengths) + mlp_flops(shape, one.neurons, lengths) * 2 // 3 for one in shape.layers)
    return each * count / len(lengths)


def adapters(backbone: Backbone, rank: int) -> int:
    """Parameters of LoRA on all seven projections of every layer that is left."""
    hidden = backbone.shape.hidden
    total = 0
    for layer in backbone.shape.layers:
        attention = 2 * (hidden + layer.query) + 2 * (hidden + layer.key_value) if layer.query else 0
        total += attention + (3 * (hidden + layer.neurons) if layer.neurons else 0)
    return rank * total


def training(backbone: Backbone, lengths: Sequence[int], count: float, rank: int, cached: bool) -> float:
    """To train on `count` texts: forward and backward through frozen weights, with adapters of this rank (0: none).

    Per token, with M operations in the frozen matrices, S in attention scores and A in adapters: forward M + S + A; backward M
    (the gradient of frozen weights is not wanted) + 2 S + 2 A. Gradient caching (`cached`) adds one more forward.
    """
    tokens = sum(lengths) * count / len(lengths)
    forward = encoding(backbone.shape, lengths, count)
    matrices = tokens * matrix_flops(backbone.shape)
    low_rank = tokens * 2 * adapters(backbone, rank)
    scores = forward - matrices
    return (3 if cached else 2) * matrices + (4 if cached else 3) * (scores + low_rank)


def matrix_flops(shape: Shape) -> int:
    """Of one token in the matrices of all layers, without attention scores."""
    return sum(2 * shape.hidden * (2 * (one.query + one.key_value) + 3 * one.neurons) for one in shape.layers)


def encoding_bytes(shape: Shape, item: int) -> int:
    """Bytes that one token of a batch takes in memory while it is encoded: the states and the widest MLP's three."""
    return item * (6 * shape.hidden + 3 * max((one.neurons for one in shape.layers), default=0))


def training_bytes(backbone: Backbone, rank: int, dropout: float, item: int) -> float:
    """Bytes that one token keeps for the way back, over all layers, with fused attention and no recomputation.

    As torch saves them for a Llama with peft's adapters (rank 0: none, but scales z on the neurons).
    """
    hidden, heads = backbone.shape.hidden, backbone.head_size
    total = 0.0
    for layer in backbone.shape.layers:
        attention, mlp = layer.query > 0, layer.neurons > 0
        if rank and item == 2:
            states, neurons, low_rank = (36, 10, 15) if dropout else (16, 8, 15)
        elif rank:
            states, neurons, low_rank = (64, 20, 29) if dropout else (24, 16, 29)
        else:
            states, neurons, low_rank = (12, 8, 0) if item == 2 else (16, 16, 0)
        total += states * hidden * (attention + mlp) / 2 + neurons * layer.neurons + 2 * item * layer.key_value
        total += low_rank * rank + 4 * layer.query / heads
    return total
