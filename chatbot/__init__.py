"""The web app: pages for chat, data, training, runs, models and settings, built with Streamlit."""
