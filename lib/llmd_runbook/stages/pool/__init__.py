"""Stage 02: the GPU node pool."""
