"""Trends: figures of the fleet over minutes to months, from the rollups, with what befell it."""
