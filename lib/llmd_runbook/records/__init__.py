"""Headless runs that leave a true record, and what is shown of records."""
