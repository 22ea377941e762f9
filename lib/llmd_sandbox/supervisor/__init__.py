"""The one detached process of a sandbox: it owns the addresses, runs every part, and says how far it is."""
