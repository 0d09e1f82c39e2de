"""What is HTTP and no domain: error bodies, request ids, limits, paging, dependencies."""
