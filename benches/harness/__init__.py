"""What scripts/bench runs: data, servers, cases, and the report of their figures. The standard library only."""
