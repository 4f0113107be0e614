"""What a run found out, and one writer per format of it."""
