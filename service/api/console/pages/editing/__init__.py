"""Edit: the table of facts and its live check, files and pasted tables, what became of an edit."""
