"""Text as a file of tokens: what language models are pre-trained on."""

from shd_vit.data.text.tokens import Chunks, TokenFile

__all__ = ['Chunks', 'TokenFile']
