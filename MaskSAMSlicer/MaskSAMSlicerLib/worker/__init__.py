"""Client of the worker process."""
