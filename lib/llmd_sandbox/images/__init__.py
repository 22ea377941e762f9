"""What a container image is here: the local program that stands in for it."""
