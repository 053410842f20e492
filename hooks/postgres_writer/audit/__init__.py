"""Compares the resources with the rows. It takes options and gives findings; printing is the command line's."""
