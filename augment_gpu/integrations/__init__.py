"""One file per host framework."""
