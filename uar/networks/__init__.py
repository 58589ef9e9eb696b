"""Pretrained networks: teachers of distilled tokenizers, extractors of models without tokens."""
