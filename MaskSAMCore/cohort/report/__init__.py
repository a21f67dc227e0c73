"""Report of a run: one HTML page that needs no network and puts doubtful cases first."""
