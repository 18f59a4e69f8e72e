"""What each study compares: `rows`, experiments by name, the first the one that the others differ from."""
