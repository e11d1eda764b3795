"""The contract between the parts, and what every other folder needs."""
