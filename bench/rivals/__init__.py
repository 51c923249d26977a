"""The authors' own code of MEMIT and JEEP against this project's editors, on the same facts."""
