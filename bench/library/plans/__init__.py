"""Counts of `jeep plan` beside measured memory and time of edits."""
