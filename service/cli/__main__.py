"""``python -m service.cli``."""

from service.cli import main

if __name__ == "__main__":  # a process that a study starts imports this module again
    main()
