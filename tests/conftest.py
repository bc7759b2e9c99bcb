"""Stands here so that every test can import `standins`: pytest puts this folder on the path."""
