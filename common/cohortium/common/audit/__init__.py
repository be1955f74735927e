"""The record of what happened: one append-only event log per party."""
