"""Speed compared with a straightforward reference in the same run: `make bench`, or one module."""
