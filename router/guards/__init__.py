"""Guards, looking at requests before they are routed and at answers before they are sent; know no HTTP."""
