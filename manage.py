#!/usr/bin/env python
"""Drakkar's command line in the checkout: ``manage.py help`` lists the commands."""

from drakkar.cli import main

if __name__ == "__main__":
    main()
