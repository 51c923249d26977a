"""Plans: memory and time of a model and its edits on a GPU, counted before anything is loaded.

What belongs here: pure functions of a configuration (`Architecture`), the layers and steps of an
editor (`Editing`), what is asked for (`Workload`) and settings (`Settings`); counts of bytes and
of operations, the table of known devices, and the verdict of ``jeep plan``.  Nothing here needs
torch.  Constants of the code that is counted are read from where that code reads them.
"""
