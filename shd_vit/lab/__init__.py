"""Studies, analyses and benchmarks of distillation. Nothing else in the package imports this."""
