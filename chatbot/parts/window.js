function settle(page, theme, addresses) {
  const before = window.byoaiPage;
  window.byoaiPage = page;
  if (before === undefined) {
    addEventListener("pagehide", forgetOpenSideBar);
  } else if (before !== page && window.innerWidth <= 768) {
    document
      .querySelector('[data-testid="stSidebar"][data-collapsed="false"] [data-testid="stSidebarCollapseButton"] button')
      ?.click();
  }
  // Streamlit 1.67 reads its theme from these keys when a page is loaded; without one it is "System"
  const keys = addresses.map((address) => `stActiveTheme-${address}-v2`);
  const other = keys.filter((key) => (localStorage.getItem(key) ?? '"System"') !== JSON.stringify(theme));
  if (other.length) {
    other.forEach((key) => localStorage.setItem(key, JSON.stringify(theme)));
    location.reload();
  }
}

// Without such a key, Streamlit 1.67 opens the side bar of a wide window, and closes that of a narrow one.
function forgetOpenSideBar() {
  Object.keys(localStorage)
    .filter((key) => key.startsWith("stSidebarCollapsed-") && localStorage.getItem(key) === "false")
    .forEach((key) => localStorage.removeItem(key));
}
