"""What is trained of each part, from when and how fast."""
