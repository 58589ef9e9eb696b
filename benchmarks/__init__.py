"""Speed against a straightforward reference, in one run: `make bench`, or one module alone."""
