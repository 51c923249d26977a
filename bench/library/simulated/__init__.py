"""Many workers that nobody has: recorded times of units, and a simulation of those who do them.

What belongs here is recording, the simulation and its report; measuring with real workers is
`bench.library.executors`.
"""
