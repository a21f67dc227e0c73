"""Time limit of tests that wait for a process."""

# No step takes this many seconds, even on a busy machine; only a failing test waits for it.
LONG = 300.0
