"""An index of versions, facts and jobs in SQLite, which can be made again from the files.

Here belongs what finds records without reading all of them.  The files stay the truth: whoever
asks reads them where the index cannot answer.
"""
