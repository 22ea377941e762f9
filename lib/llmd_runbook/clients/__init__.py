"""The outside world, one thin module a system, each over its official library."""
