"""`chorus demo`: a bakery, its customers, and a fleet on this machine that may be broken on purpose."""
