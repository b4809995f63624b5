"""SHD on GPUs by Triton kernels, for maps of any length: none is made in memory.

``choice`` says what may run here and what does; ``loss`` runs it; ``kernels`` and ``tiles`` are the
passes. Triton is imported where a kernel is first called.
"""
