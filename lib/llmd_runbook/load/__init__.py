"""The load generator: arrival schedule, requests, samples. It never parses an answer while the clock runs."""
