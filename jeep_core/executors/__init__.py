"""Where independent work is done: in this process, in others on this machine, in a Ray cluster.

What belongs here is how units of work are handed out, watched and done again; what a unit does is a
function of the room that it belongs to.
"""
