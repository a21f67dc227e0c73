"""Report of a run: one page without any network, the cases to look at first."""
