"""The pages. Run through chatbot.server (`byoai chat`), which binds to this machine only and guards the door."""

from pathlib import Path

import streamlit as st

HERE = Path(__file__).parent

# Pictures of our own: Streamlit would fetch a Material icon for the browser's tab from the net.
st.set_page_config(page_title="byoai", page_icon=str(HERE / "icon.svg"))
st.logo(str(HERE / "logo.svg"), size="large", icon_image=str(HERE / "icon.svg"))
st.navigation([st.Page("pages/chat.py", title="byoai", default=True)], position="hidden").run()
