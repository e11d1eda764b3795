"""What the reports of studies have in common."""
