"""What every change goes through: its plan, its approval, and who else owns the object."""
