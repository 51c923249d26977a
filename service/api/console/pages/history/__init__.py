"""Versions: their list with lines between them, pages of single ones, differences, and what moves
head or makes something of a version.

A module for each page or kind of dialog.  A dialog is asked for before anything is changed, and
says what will become of facts, jobs and targets.
"""
