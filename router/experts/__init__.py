"""The pool: experts of every kind behind one contract. It knows nothing of who asked or why this one was chosen."""
