"""Training images synthesised from labelmaps."""
