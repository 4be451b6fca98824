"""Do what the pages, the API and the command line have in common: choose the model that answers, train, show data."""
