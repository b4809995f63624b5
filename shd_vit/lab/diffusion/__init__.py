"""Training, sampling and scoring of diffusion transformers, for tools/dit_*.py."""
