"""Processes that begin with everything imported, forked from one that a test run starts once.

A start takes a tenth of a second instead of many.  For tests of what a process does; what it
imports, and how it is started, needs a process of its own.
"""
