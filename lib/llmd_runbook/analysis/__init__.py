"""Pure functions that tests and stages reason with: no I/O, no clocks, no global state."""
