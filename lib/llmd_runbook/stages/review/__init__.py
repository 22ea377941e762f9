"""Stage 01: what is there before anything changes."""
