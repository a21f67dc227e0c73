"""Time limit of tests that wait for a process."""

# Seconds; no step takes this long, even on a busy machine, so only failing tests wait this long.
LONG = 300.0
