"""MA-SAM: SAM with low-rank updates and 3D adapters."""
