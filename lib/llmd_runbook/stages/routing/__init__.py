"""Stage 05: whether the picker routes by prefix cache, KV use and queue depth."""
