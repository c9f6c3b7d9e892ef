"""Failures of one cause as one group: counted where their events are stored.

grouping    finds the group of a failed attempt or a letter, where its row is made
counting    counts the groups of rows, in the transaction that stores these
states      acknowledge, resolve, ignore; what a person says of a group
reading     groups and their counts, for pages and the API
news        groups that are new, back or far more frequent, for findings
retention   deletes what is past the days of the history
"""
