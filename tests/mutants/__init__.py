"""Plant faults in copies of the sources, each of which must fail a test."""
