"""Importing this module makes AutoConfig and AutoModel know exported folders, so that no remote code is needed."""

from transformers import AutoConfig, AutoModel

from effir.export.modeling_effir import FAMILIES

for _config, _model in FAMILIES.values():
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
