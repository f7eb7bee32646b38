"""Checks that the pages in docs/ say what the code does; pages that are made from code are made here."""
