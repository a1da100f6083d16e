"""Virtual keys and teams, kept in the ledger's Redis. It knows no HTTP."""
