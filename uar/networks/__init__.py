"""Pretrained networks, which tokenizers are distilled from and rows without tokens look with."""
