"""Waiting for model servers and pickers: how far each pod is, what it says, and when nothing new comes any more."""
