"""Readers of data sets that come with official files, one file each."""
