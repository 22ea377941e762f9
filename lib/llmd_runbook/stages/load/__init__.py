"""Stage 06, and the baselines of 01 and 03: load put on the service, and what it shows."""
