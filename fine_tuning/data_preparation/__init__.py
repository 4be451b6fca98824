"""Turn cleaned conversations into datasets (train, validation and test split) and token rows."""
