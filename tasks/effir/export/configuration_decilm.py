"""Configuration code that travels inside a decilm/ folder. Needs transformers (4.46 or later) only.

Engines read `config.block_configs[layer].attention.no_op` and the like: attributes, which JSON has not.
"""

from transformers import LlamaConfig


class Part(dict):
    """A JSON object whose entries are attributes, too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class DeciLMConfig(LlamaConfig):
    """Llama's configuration, and what each layer consists of."""

    model_type = "nemotron-nas"

    def __init__(self, block_configs=(), **others):
        super().__init__(**others)
        if "rope_theta" in others:
            self.rope_theta = others["rope_theta"]  # transformers 5 moves it away from where some engines look for it
        self.block_configs = [Part({name: Part(part) for name, part in layer.items()}) for layer in block_configs]
