"""What faces share: who answers and how that changes (ollama_integration), and learning as seen from a page."""
