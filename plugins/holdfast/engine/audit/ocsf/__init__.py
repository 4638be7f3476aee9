"""The Open Cybersecurity Schema Framework, release 1.8.0, as Arrow columns."""
