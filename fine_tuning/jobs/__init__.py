"""Retrains that outlive their window: the asynchronous face of the pipeline."""
