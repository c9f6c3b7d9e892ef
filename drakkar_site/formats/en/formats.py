"""Formats of times in the admin: to the second, and with their zone."""

DATETIME_FORMAT = r"Y-m-d H:i:s \U\T\C"
