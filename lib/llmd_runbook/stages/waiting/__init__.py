"""Waiting for model servers: how far each pod is, what it says meanwhile, and when nothing new comes any more."""
