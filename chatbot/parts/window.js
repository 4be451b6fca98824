function settle(page, theme, addresses) {
  const before = window.byoaiPage;
  window.byoaiPage = page;
  // on the first page, a person may have opened the side bar before this runs
  const close = before === undefined ? !navigator.userActivation?.hasBeenActive : before !== page;
  if (close && window.innerWidth <= 768) {
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
