"""Serving: answers and updates for many users, from states that survive the end of the process."""
