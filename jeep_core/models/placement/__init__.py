"""A model over several devices: each block whole on one of them, the rest beside the embedding.

What belongs here: how a layout is written and balanced (`device_map`, without torch), the devices
of this machine (`devices`), and how tensors come to the block that reads them (`moving`).
"""
