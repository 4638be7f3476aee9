"""Policies in Cedar: whether bytes may be stored, copied, trained on or restored somewhere; asked before they move."""
