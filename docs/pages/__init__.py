"""The pages of the documentation that are written by programs, one module a page."""
