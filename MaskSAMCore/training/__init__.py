"""Training: from a dataset folder to a run folder (see ``training.fit``)."""
