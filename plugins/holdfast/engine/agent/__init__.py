"""The site agent: one process per site that holds its leases, sends its heartbeat and serves its model."""
