"""The command line of the machine-learning engineer: from outcomes to a policy. It knows nothing of HTTP."""
