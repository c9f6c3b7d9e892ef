"""``python -m drakkar``: the command line where no script ``drakkar`` is installed."""

from drakkar.cli import main

if __name__ == "__main__":
    main()
