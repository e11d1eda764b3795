"""Data sets that are drawn and written here: for each question it is known what it takes."""
