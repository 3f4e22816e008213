"""One file for each endpoint, or for a few of one subject: everything declared here is served."""
