"""Sums of events by minute, hour and day: counted where events are stored, or given up.

sums        what an event counts for; sums that can be added, and carried by a row
projection  adds what rows carry to the tables, in the transaction that stores the rows
label_values  values of labels that a cluster counts by themselves
gauges      figures of a moment (lag, slots): least, mean and most of each minute
reading     series and totals for charts, tables and facets
retention   deletes what is past its days
"""
