"""Classifiers from files."""
