"""Stage 06: what it costs, and what the guide's numbers are worth."""
