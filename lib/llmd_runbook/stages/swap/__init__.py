"""Stage 03: from Pattern 1 to Pattern 3, and back where it does not hold."""
